/** Which connection goes on (RFC 4271 §6.8, RFC 6286 §2.3, RFC 4724 §5). */

import { describe, expect, test } from 'vitest'
import type { Contest, Resolution } from '../../src/bgp/session/collision.ts'
import { peersChoice, resolveCollision } from '../../src/bgp/session/collision.ts'
import { Speaker } from '../../src/bgp/speaker.ts'
import { encodeKeepalive, encodeMessage, encodeNotification, Framer } from '../../src/bgp/wire/message.ts'
import { encodeOpen, noCapabilities } from '../../src/bgp/wire/open.ts'
import { Ip } from '../../src/lib/ip.ts'
import type { Conn, ConnEvents } from '../../src/lib/ports.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { type SimHost, SimNetwork } from '../sim/transport.ts'
import { peerConfig, silentLog, speakerConfig } from './fixtures.ts'

function contest(more: Partial<Contest>, candidate: Partial<Contest['candidate']> = {}): Contest {
  return {
    candidate: { accepted: true, createdAtMs: 10_000, restarted: false, ...candidate },
    other: undefined,
    ourDialWins: true,
    ...more,
  }
}

const plain = { sinceMs: 1000, graceful: false, restarted: false }
const graceful = { sinceMs: 1000, graceful: true, restarted: false }

const rows: { name: string; contest: Contest; want: Resolution }[] = [
  { name: 'alone', contest: contest({}), want: 'proceed' },
  { name: 'our dial is idle', contest: contest({ other: 'idle' }), want: 'proceed' },
  { name: 'our dial has no TCP yet, even if it would win', contest: contest({ other: 'connect' }), want: 'proceed' },
  { name: 'ours waits for ConnectRetry', contest: contest({ other: 'active' }), want: 'proceed' },
  {
    name: 'theirs against our better one, which has not spoken',
    contest: contest({ other: 'open-sent' }),
    want: 'wait',
  },
  { name: 'theirs against our better one, which has', contest: contest({ other: 'open-confirm' }), want: 'lose' },
  { name: 'theirs is the better one', contest: contest({ other: 'open-sent', ourDialWins: false }), want: 'win' },
  {
    name: 'theirs is the better one, on ours we have sent KEEPALIVE: they may have it up',
    contest: contest({ other: 'open-confirm', ourDialWins: false }),
    want: 'defer',
  },
  { name: 'ours is the better one', contest: contest({ other: 'open-confirm' }, { accepted: false }), want: 'win' },
  {
    name: 'ours against their better one',
    contest: contest({ other: 'open-sent', ourDialWins: false }, { accepted: false }),
    want: 'wait',
  },
  { name: 'beside a session without graceful restart', contest: contest({ established: plain }), want: 'lose' },
  {
    name: 'the same with the restart flag',
    contest: contest({ established: plain }, { restarted: true }),
    want: 'lose',
  },
  {
    name: 'a peer that dials long after: it has restarted',
    contest: contest({ established: graceful }),
    want: 'supersede',
  },
  {
    name: 'a late loser of the race',
    contest: contest({ established: graceful }, { createdAtMs: 1500 }),
    want: 'lose',
  },
  {
    name: 'early, but with the restart flag',
    contest: contest({ established: graceful }, { createdAtMs: 1500, restarted: true }),
    want: 'supersede',
  },
  {
    name: 'early, the restart flag on both: one restart, two connections',
    contest: contest({ established: { ...graceful, restarted: true } }, { createdAtMs: 1500, restarted: true }),
    want: 'lose',
  },
  {
    name: 'late, the restart flag on both: it has restarted again',
    contest: contest({ established: { ...graceful, restarted: true } }, { restarted: true }),
    want: 'supersede',
  },
  {
    name: 'our own dial never replaces a session',
    contest: contest({ established: graceful }, { accepted: false }),
    want: 'lose',
  },
]

for (const row of rows) test(row.name, () => expect(resolveCollision(row.contest)).toBe(row.want))

describe('both ends', () => {
  test('never keep different connections, whichever OPEN comes first', () => {
    // One end sees the connection that it dialled as not accepted, the other one as accepted.
    for (const dialledByHigher of [true, false])
      for (const other of ['open-sent', 'open-confirm'] as const) {
        const atHigher = resolveCollision(contest({ other, ourDialWins: true }, { accepted: !dialledByHigher }))
        const atLower = resolveCollision(contest({ other, ourDialWins: false }, { accepted: dialledByHigher }))
        expect(atHigher === 'win').toBe(dialledByHigher)
        // The lower one either takes it at once or leaves the choice to the higher one.
        expect(atLower === 'win' || atLower === 'defer').toBe(dialledByHigher)
      }
  })
})

const choices: { name: string; better: number[]; other: number[]; gone?: 'better' | 'other'; want?: string }[] = [
  { name: 'nothing yet', better: [], other: [] },
  { name: 'KEEPALIVE on the other one was sent before the choice', better: [], other: [4] },
  { name: 'KEEPALIVE on the better one', better: [4], other: [4], want: 'better' },
  { name: 'NOTIFICATION on the better one', better: [3], other: [4], want: 'other' },
  { name: 'the better one ends', better: [], other: [4], gone: 'better', want: 'other' },
  { name: 'NOTIFICATION on the other one', better: [], other: [4, 3], want: 'better' },
  { name: 'the other one ends', better: [], other: [], gone: 'other', want: 'better' },
  { name: 'routes on the other one: it is up there', better: [], other: [4, 2, 2], want: 'other' },
]
for (const { name, better, other, gone, want } of choices)
  test(`which connection the peer keeps: ${name} (RFC 4271 §6.8)`, () =>
    expect(peersChoice({ types: better, ended: gone === 'better' }, { types: other, ended: gone === 'other' })).toBe(
      want,
    ))

/** A peer with the higher identifier whose every message is the test's: `dialled` by us, `theirs` by it. */
class Scripted {
  readonly clock = new SimClock()
  readonly heard = { dialled: [] as number[], theirs: [] as number[] }
  readonly states: string[] = []
  readonly speaker: Speaker
  readonly #host: SimHost
  readonly #restarted: boolean
  dialled: Conn | undefined
  theirs: Conn | undefined

  /** `restarted`: every OPEN of the peer's says so. */
  constructor(restarted = false) {
    this.#restarted = restarted
    const random = new SimRandom(3)
    const network = new SimNetwork({ clock: this.clock, random })
    const [a, b] = [network.host('a', ['10.0.0.1']), network.host('b', ['10.0.0.2'])]
    const options = { onRoutes: () => {}, onState: ({ to }: { to: string }) => void this.states.push(to) }
    this.speaker = new Speaker(options, { clock: this.clock, transport: a, random, log: silentLog })
    this.#host = b
    const config = peerConfig('10.0.0.2', { families: [4], gracefulRestart: 'full' })
    this.speaker.configure(speakerConfig('10.0.0.1', [config]))
    b.listen({ ip: Ip.of('10.0.0.2'), port: 179 }, conn => {
      this.dialled = conn
      return { events: this.#ear('dialled') }
    })
    this.speaker.start()
    this.until(() => this.dialled !== undefined)
    this.dialled!.write([this.open()])
    this.until(() => this.heard.dialled.includes(4))
    this.dial()
  }

  /** Another connection of theirs, with its OPEN. */
  dial(): void {
    this.heard.theirs.length = 0
    const ear = this.#ear('theirs')
    this.#host.dial({ ip: Ip.of('10.0.0.1'), port: 179 }, {}, { ...ear, opened: conn => void (this.theirs = conn) })
    this.until(() => this.heard.theirs.includes(1))
    this.theirs!.write([this.open()])
    this.clock.pass(20)
  }

  #ear(which: 'dialled' | 'theirs'): ConnEvents {
    const framer = new Framer()
    return {
      data: chunk => {
        framer.push(chunk)
        while (framer.next()) this.heard[which].push(framer.type)
      },
      closed: () => {},
    }
  }

  open(): Uint8Array {
    const identifier = Ip.of('10.0.0.2').uint32
    const families = [{ family: 4 as const, forwarding: true }]
    const gracefulRestart = { restarted: this.#restarted, notification: false, seconds: 60, families }
    const capabilities = { ...noCapabilities, families: [4] as const, as4: 64512, gracefulRestart }
    return encodeOpen({ version: 4, as2: 64512, holdSeconds: 90, identifier, capabilities })
  }

  until(holds: () => boolean): void {
    for (let i = 0; i < 20_000 && !holds(); i++) this.clock.pass(1)
    expect(holds()).toBe(true)
  }

  get state(): string {
    return this.speaker.snapshot().peers[0]!.state
  }
}

describe('a collision while the peer may have the other connection up (RFC 4271 §6.8)', () => {
  const collision = encodeNotification({ code: 6, subcode: 7, data: new Uint8Array(0) })
  const endOfRib = encodeMessage(2, new Uint8Array(4))

  test('neither goes on before the peer has chosen, and nothing is closed', () => {
    const p = new Scripted()
    p.dialled!.write([encodeKeepalive()])
    p.clock.pass(500)
    expect(p.state).toBe('OpenConfirm')
    expect(p.heard).toEqual({ dialled: [1, 4], theirs: [1] })
  })

  const kept: { name: string; does: (p: Scripted) => void; keeps: 'dialled' | 'theirs' }[] = [
    {
      name: 'it had ours up and closes its own (as BIRD does)',
      does: p => {
        p.theirs!.write([collision])
        p.theirs!.end()
        p.clock.pass(5)
        p.dialled!.write([encodeKeepalive(), endOfRib])
      },
      keeps: 'dialled',
    },
    {
      name: 'the same, its routes come first',
      does: p => {
        p.dialled!.write([encodeKeepalive(), endOfRib])
        p.clock.pass(5)
        p.theirs!.write([collision])
      },
      keeps: 'dialled',
    },
    {
      name: 'routes and the end of its own come at once',
      does: p => {
        p.theirs!.write([collision])
        p.dialled!.write([encodeKeepalive(), endOfRib])
      },
      keeps: 'dialled',
    },
    {
      name: 'it prefers its own',
      does: p => {
        p.dialled!.write([encodeKeepalive(), collision])
        p.clock.pass(5)
        p.theirs!.write([encodeKeepalive()])
      },
      keeps: 'theirs',
    },
    { name: 'its KEEPALIVE on its own comes first', does: p => p.theirs!.write([encodeKeepalive()]), keeps: 'theirs' },
    {
      name: 'it does not choose: we do, after two seconds',
      does: p => {
        p.dialled!.write([encodeKeepalive()])
        p.clock.pass(2500)
        expect(p.heard.dialled).toContain(3)
        p.theirs!.write([encodeKeepalive()])
      },
      keeps: 'theirs',
    },
  ]
  for (const { name, does, keeps } of kept)
    test(`${name}: one session, on the connection it keeps, and no NOTIFICATION there`, () => {
      const p = new Scripted()
      does(p)
      p.clock.pass(100)
      expect(p.state).toBe('Established')
      expect(p.heard[keeps]).not.toContain(3)
      expect(p.heard[keeps].filter(type => type === 4)).not.toEqual([])
      expect(p.states.filter(state => state === 'Established')).toHaveLength(1)
      p.clock.pass(10_000)
      expect(p.state).toBe('Established')
    })

  test('a restarted peer whose second connection comes when the first is up: no second restart (RFC 4724 §5)', () => {
    const p = new Scripted(true)
    p.theirs!.write([collision])
    p.dialled!.write([encodeKeepalive(), endOfRib])
    p.clock.pass(100)
    expect(p.state).toBe('Established')
    p.dial()
    expect(p.heard.theirs).toContain(3)
    p.clock.pass(1000)
    expect(p.speaker.snapshot().peers[0]).toMatchObject({ state: 'Established', flaps: 0 })
    expect(p.heard.dialled).not.toContain(3)
  })
})
