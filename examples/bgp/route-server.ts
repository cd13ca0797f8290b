/**
 * A route server (RFC 7947) for an exchange: members speak to it alone and get each other's routes as if they spoke to each
 * other, with path, next hop, MED and communities as they came. Each member has a filter of its own; a route that it may not
 * have gives way to the next best one.
 *
 * Who may have a route says the member that announces it, with communities, in the two forms usual at exchanges; the large
 * ones are for AS numbers that fit no community:
 *
 *   SERVER:MEMBER   SERVER:1:MEMBER   to this member, whatever the others say
 *   0:MEMBER        SERVER:0:MEMBER   not to this member
 *   0:SERVER        SERVER:0:0        to nobody
 *
 * They are taken out on the way; all other communities pass.
 *
 *   node examples/bgp/route-server.ts --as 65000 --listen 10.0.0.1:179 --member 10.0.0.11@65001 --member 10.0.0.12@65002
 */

import { parseArgs } from 'node:util'
import { createSpeaker, type PolicySet, type RouteFilter } from '../../src/app/speaker.ts'

const { values } = parseArgs({
  options: {
    as: { type: 'string', default: '65000' },
    'router-id': { type: 'string' },
    listen: { type: 'string', multiple: true, default: ['0.0.0.0:179', '[::]:179'] },
    member: { type: 'string', multiple: true, default: [] },
    'max-prefix': { type: 'string', default: '10000' },
  },
})

if (values.member.length === 0) {
  console.error('usage: route-server --as AS --member ADDRESS@AS... [--listen ADDRESS:PORT]... [--max-prefix N]')
  process.exit(2)
}

const server = Number(values.as)
const routerId = values['router-id']

/** What no member should announce here: defaults, what is too long to be routed, paths that go nowhere. */
const sane: RouteFilter = ({ prefix, asPath }) =>
  prefix.length >= (prefix.family === 4 ? 8 : 16) &&
  prefix.length <= (prefix.family === 4 ? 24 : 48) &&
  asPath.split(' ').length <= 64

/** What members say to the server is not for other members (RFC 7947 §2.2.4). */
const withoutControl: PolicySet = {
  removeCommunities: [
    [0, '*'],
    [server, '*'],
    [server, '*', '*'],
  ],
}

function allowedTo(member: number): RouteFilter {
  return ({ communities, largeCommunities }) => {
    const said = (plain: string, large: string): boolean =>
      communities.includes(plain) || largeCommunities.includes(large)
    const wanted = said(`${server}:${member}`, `${server}:1:${member}`)
    const refused = said(`0:${member}`, `${server}:0:${member}`) || said(`0:${server}`, `${server}:0:0`)
    return wanted || !refused ? withoutControl : false
  }
}

const speaker = createSpeaker(
  {
    as: server,
    ...(routerId !== undefined && { routerId }),
    listen: values.listen,
    groups: {
      members: {
        routeServerClient: true,
        role: 'rs',
        // RFC 7948 §4.8: nobody draws traffic to a router that is no member.
        acceptNextHops: 'link',
        families: ['ipv4', 'ipv6'],
        import: sane,
        maxPrefix: Number(values['max-prefix']),
      },
    },
    peers: values.member.map(text => {
      const [address = '', as] = text.split('@')
      return { address, as: Number(as), group: 'members', export: allowedTo(Number(as)) }
    }),
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

// What is asked most often: who is up, and how much each sent and gets.
process.on('SIGUSR2', () => {
  for (const { name, state, counts } of speaker.snapshot().peers)
    console.error(name, state, ...counts.map(c => `IPv${c.family} in ${c.accepted} out ${c.advertised}`))
})
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => void speaker.stop({ graceful: true, text: 'route server restarts' }))
