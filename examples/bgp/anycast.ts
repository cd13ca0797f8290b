/**
 * An anycast service: its address is announced while the service answers, and withdrawn when it does not.
 *
 * The check is a TCP connection every second. Three failures in a row withdraw, two successes announce again, so that a
 * single slow answer moves no traffic. On SIGTERM the route first leaves with GRACEFUL_SHUTDOWN (RFC 8326), which lets
 * routers look for another instance while this one still serves; five seconds later it is gone.
 *
 *   node examples/bgp/anycast.ts --as 65010 --router 10.0.0.1@65000 --address 192.0.2.53/32 --check 127.0.0.1:53
 */

import { connect } from 'node:net'
import { parseArgs } from 'node:util'
import { createSpeaker } from '../../src/app/speaker.ts'

const { values } = parseArgs({
  options: {
    as: { type: 'string', default: '65010' },
    'router-id': { type: 'string' },
    router: { type: 'string', multiple: true, default: [] },
    port: { type: 'string', default: '179' },
    address: { type: 'string', multiple: true, default: [] },
    check: { type: 'string', default: '127.0.0.1:53' },
    'drain-seconds': { type: 'string', default: '5' },
  },
})

if (values.router.length === 0 || values.address.length === 0) {
  console.error('usage: anycast --as AS --router ADDRESS@AS... --address PREFIX... [--check HOST:PORT] [--drain-seconds N]')
  process.exit(2)
}

const routerId = values['router-id']
const speaker = createSpeaker(
  {
    as: Number(values.as),
    ...(routerId !== undefined && { routerId }),
    listen: [],
    peers: values.router.map(text => {
      const [address = '', as] = text.split('@')
      return {
        address,
        as: Number(as),
        port: Number(values.port),
        // Nothing is wanted from the router, and it gets these addresses only, whatever else a mistake may announce.
        import: 'none',
        export: values.address,
        holdSeconds: 9,
      }
    }),
  },
  {
    onPeer: ({ name, to, cause }) => {
      console.error(`${name}: ${to}${cause ? ` (${cause.text})` : ''}`)
    },
  },
)

function announce(communities: readonly string[] = []): void {
  for (const prefix of values.address) speaker.announce({ prefix, communities })
}

function answers(): Promise<boolean> {
  const at = values.check.lastIndexOf(':')
  return new Promise(resolve => {
    const socket = connect({ host: values.check.slice(0, at), port: Number(values.check.slice(at + 1)), timeout: 800 })
    const end = (good: boolean): void => {
      socket.destroy()
      resolve(good)
    }
    socket.once('connect', () => {
      end(true)
    })
    socket.once('timeout', () => {
      end(false)
    })
    socket.once('error', () => {
      end(false)
    })
  })
}

let isAnnounced = false
let isStopping = false
/** Good answers in a row, or bad ones as a negative number. */
let streak = 0

async function look(): Promise<void> {
  const good = await answers()
  if (isStopping) return
  streak = good ? Math.max(1, streak + 1) : Math.min(-1, streak - 1)
  if (!isAnnounced && streak >= 2) {
    announce()
    isAnnounced = true
    console.error('the service answers: announced')
  } else if (isAnnounced && streak <= -3) {
    for (const prefix of values.address) speaker.withdraw(prefix)
    isAnnounced = false
    console.error('the service does not answer: withdrawn')
  }
}

speaker.start()
const timer = setInterval(() => void look(), 1000)

for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    isStopping = true
    clearInterval(timer)
    if (isAnnounced) announce(['graceful-shutdown'])
    const leave = (): void => void speaker.stop({ text: 'drained' })
    setTimeout(leave, isAnnounced ? Number(values['drain-seconds']) * 1000 : 0)
  })
