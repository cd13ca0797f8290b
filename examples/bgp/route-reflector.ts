/**
 * A route reflector (RFC 4456): whoever connects from the range with our AS number is a client. Non-clients, such as a
 * second reflector, are given with `--other`.
 *
 *   node examples/bgp/route-reflector.ts --as 65000 --listen 10.0.0.1:179 --clients 10.0.0.0/24
 *   node examples/bgp/route-reflector.ts --as 65000 --clients fd00::/64 --cluster-id 10.0.0.1 --other 10.0.0.2
 */

import { parseArgs } from 'node:util'
import { createSpeaker } from '../../src/app/speaker.ts'

const { values } = parseArgs({
  options: {
    as: { type: 'string', default: '65000' },
    'router-id': { type: 'string' },
    'cluster-id': { type: 'string' },
    listen: { type: 'string', multiple: true, default: ['0.0.0.0:179', '[::]:179'] },
    clients: { type: 'string', multiple: true, default: [] },
    other: { type: 'string', multiple: true, default: [] },
  },
})

if (values.clients.length === 0) {
  console.error('usage: route-reflector --as AS --clients PREFIX... [--cluster-id ID] [--other ADDRESS]... [--listen ADDRESS:PORT]...')
  process.exit(2)
}

const as = Number(values.as)
const routerId = values['router-id']
const clusterId = values['cluster-id']
const speaker = createSpeaker(
  {
    as,
    ...(routerId !== undefined && { routerId }),
    ...(clusterId !== undefined && { clusterId }),
    listen: values.listen,
    groups: {
      // By iBGP everything is taken and announced unless filters say otherwise. A helper keeps routes of a client that
      // restarts (RFC 4724).
      clients: { as, client: true, families: ['ipv4', 'ipv6'], gracefulRestart: 'helper' },
      others: { as, families: ['ipv4', 'ipv6'] },
    },
    peers: [
      ...values.clients.map(range => ({ range, limit: 1000, group: 'clients' })),
      ...values.other.map(address => ({ address, group: 'others' })),
    ],
  },
  {
    onPeer: ({ name, to, cause }) => {
      console.error(`${name}: ${to}${cause ? ` (${cause.text})` : ''}`)
    },
    onProblem: ({ message }) => {
      console.error(message)
    },
  },
)
speaker.start()

// What a reflector is asked most often: who is up, and how much each sent and gets.
process.on('SIGUSR2', () => {
  for (const { address, state, counts } of speaker.snapshot().peers)
    console.error(address, state, ...counts.map(c => `IPv${c.family} in ${c.accepted} out ${c.advertised}`))
})
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => void speaker.stop({ graceful: true, text: 'reflector restarts' }))
