/**
 * A route collector: takes everything from everybody, announces nothing, and prints each best route that changes as one
 * line of JSON, with its attributes.
 *
 *   node examples/bgp/route-collector.ts --as 65000 --listen 10.0.0.1:179 --peer 10.0.0.2@65001 --peer 10.0.0.3@65002
 *   node examples/bgp/route-collector.ts --as 65000 --listen 10.0.0.1:179 --range 10.0.0.0/24      (whoever comes)
 */

import { parseArgs } from 'node:util'
import { createSpeaker } from '../../src/app/speaker.ts'

const { values } = parseArgs({
  options: {
    as: { type: 'string', default: '65000' },
    'router-id': { type: 'string' },
    listen: { type: 'string', multiple: true, default: ['0.0.0.0:179', '[::]:179'] },
    peer: { type: 'string', multiple: true, default: [] },
    range: { type: 'string', multiple: true, default: [] },
  },
})

if (values.peer.length + values.range.length === 0) {
  console.error('usage: route-collector --as AS [--listen ADDRESS:PORT]... --peer ADDRESS[@AS]... --range PREFIX[@AS]...')
  process.exit(2)
}

/** `10.0.0.2@65001`; without an AS number: any but ours. */
function split(text: string): { where: string; as: number | 'external' } {
  const [where = '', as] = text.split('@')
  return { where, as: as === undefined ? 'external' : Number(as) }
}

const routerId = values['router-id']
const speaker = createSpeaker(
  {
    as: Number(values.as),
    ...(routerId !== undefined && { routerId }),
    listen: values.listen,
    // `import: 'all'` is needed: an eBGP peer without a filter takes nothing (RFC 8212).
    groups: { feeds: { import: 'all', export: 'none', families: ['ipv4', 'ipv6'], maxPrefix: 2_000_000 } },
    peers: [
      ...values.peer.map(split).map(({ where, as }) => ({ address: where, as, group: 'feeds' })),
      ...values.range.map(split).map(({ where, as }) => ({ range: where, as, group: 'feeds' })),
    ],
  },
  {
    onRoutes: changes => {
      for (const { prefix, nextHops } of changes) {
        const best = nextHops.length > 0 ? speaker.best(prefix) : undefined
        console.log(JSON.stringify({ prefix, from: best?.peer?.name, ...best?.attributes }))
      }
    },
    onPeer: ({ name, from, to, cause }) => {
      console.error(`${name}: ${from} -> ${to}${cause ? ` (${cause.text})` : ''}`)
    },
    onProblem: ({ message }) => {
      console.error(message)
    },
  },
)
speaker.start()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void speaker.stop({ text: signal }))
