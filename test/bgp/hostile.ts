/**
 * A speaker between an honest neighbour and one that says whatever a test wants, over the simulated network.
 *
 *     hostile (10.0.0.66, scripted octets) ----- target (10.0.0.1, a whole speaker) ----- honest (10.0.0.2, a whole speaker)
 *
 * Chunks are cut at random boundaries. Whatever happens to the hostile session, the honest one must not notice, and what
 * the honest one is sent must be flawless: it resets or counts faults otherwise.
 */

import { Speaker } from '../../src/bgp/speaker.ts'
import { acceptAll, type PeerConfig, type SpeakerConfig } from '../../src/bgp/types.ts'
import { encodeKeepalive, encodeMessage, Framer } from '../../src/bgp/wire/message.ts'
import { type Capabilities, encodeOpen, noCapabilities } from '../../src/bgp/wire/open.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import type { Conn } from '../../src/lib/ports.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'
import { type SimHost, SimNetwork } from '../sim/transport.ts'
import { peerConfig, silentLog, speakerConfig } from './fixtures.ts'

export interface Heard {
  readonly type: number
  readonly body: Uint8Array
}

export const hostileAs = 65001

export class Hostile {
  readonly clock = new SimClock()
  readonly network: SimNetwork
  readonly target: Speaker
  readonly honest: Speaker
  readonly host: SimHost
  readonly at: string
  readonly heard: Heard[] = []
  /** How the last connection ended; undefined: it stands. */
  closed: string | undefined
  conn: Conn | undefined
  config: Partial<PeerConfig>
  targetConfig!: SpeakerConfig
  #framer = new Framer()

  /** `at`: the hostile one's address, `fd00::66` for a session over IPv6. */
  constructor(config: Partial<PeerConfig> = {}, seed = 1, at: '10.0.0.66' | 'fd00::66' = '10.0.0.66') {
    this.config = config
    this.at = at
    const random = new SimRandom(seed)
    this.network = new SimNetwork({ clock: this.clock, random }, { latencyMs: 1, chunkBytes: 1500 })
    const target = this.network.host('target', ['10.0.0.1', 'fd00::1'])
    const honest = this.network.host('honest', ['10.0.0.2', 'fd00::2'])
    this.host = this.network.host('hostile', ['10.0.0.66', 'fd00::66'])
    this.target = this.#speaker(target, 11)
    this.honest = this.#speaker(honest, 12)
    this.configure(config)
    this.honest.configure(
      speakerConfig('10.0.0.2', [peerConfig('10.0.0.1')], {
        originate: [{ prefix: Prefix.of('10.48.2.0/26'), tag: 'block' }],
      }),
    )
    this.target.start()
    this.honest.start()
    this.clock.pass(2000)
  }

  configure(config: Partial<PeerConfig>): void {
    this.config = config
    const hostile = peerConfig(this.at, {
      remoteAs: hostileAs,
      passive: true,
      connectRetrySeconds: 1,
      importPolicy: acceptAll,
      ...config,
    })
    this.targetConfig = speakerConfig('10.0.0.1', [peerConfig('10.0.0.2', { client: true }), hostile], {
      originate: [{ prefix: Prefix.of('10.48.1.0/26'), tag: 'block' }],
    })
    this.target.configure(this.targetConfig)
  }

  #speaker(transport: SimHost, seed: number): Speaker {
    return new Speaker(
      { onRoutes: () => {} },
      { clock: this.clock, transport, random: new SimRandom(seed), log: silentLog },
    )
  }

  /** A TCP connection to the target and nothing more. */
  dial(): Conn | undefined {
    this.heard.length = 0
    this.closed = this.conn = undefined
    this.#framer = new Framer()
    this.#framer.acceptExtended()
    this.host.dial(
      { ip: Ip.of(this.at === '10.0.0.66' ? '10.0.0.1' : 'fd00::1'), port: 179 },
      { source: Ip.of(this.at) },
      {
        opened: conn => void (this.conn = conn),
        data: chunk => this.#hear(chunk),
        ended: () => {
          this.closed ??= 'ended'
          this.conn?.end()
        },
        closed: reason => void (this.closed ??= reason),
      },
    )
    this.clock.pass(20)
    return this.conn
  }

  #hear(chunk: Uint8Array): void {
    const framer = this.#framer
    framer.push(chunk)
    while (framer.next()) this.heard.push({ type: framer.type, body: framer.bytes.slice(framer.start, framer.end) })
    if (framer.error) throw framer.error
  }

  send(...messages: readonly Uint8Array[]): void {
    this.conn?.write(messages.map(message => message.slice()))
    this.clock.pass(100)
  }

  open(
    capabilities: Partial<Capabilities> = {},
    more: { as2?: number; holdSeconds?: number; identifier?: number } = {},
  ): Uint8Array {
    const as = this.config.remoteAs ?? hostileAs
    return encodeOpen({
      version: 4,
      as2: more.as2 ?? as,
      holdSeconds: more.holdSeconds ?? 90,
      identifier: more.identifier ?? 0x0a000042,
      capabilities: {
        ...noCapabilities,
        families: [4, 6],
        as4: as,
        extendedMessage: true,
        routeRefresh: true,
        ...capabilities,
      },
    })
  }

  /** Dials and shakes hands; true: the session stands. */
  connect(capabilities: Partial<Capabilities> = {}, more: Parameters<Hostile['open']>[1] = {}): boolean {
    if (!this.dial()) return false
    this.send(this.open(capabilities, more))
    this.send(encodeKeepalive())
    return this.established
  }

  update(body: Uint8Array): void {
    this.send(encodeMessage(2, body))
  }

  /** KEEPALIVEs for as long as it takes, as an honest peer would send them. */
  stayFor(ms: number): void {
    for (let at = 0; at < ms; at += 10_000) {
      this.send(encodeKeepalive())
      this.clock.pass(Math.min(10_000, ms - at))
    }
  }

  get view() {
    return this.target.snapshot().peers.find(peer => peer.key === this.at)!
  }

  get established(): boolean {
    return this.view.state === 'Established'
  }

  /** NOTIFICATIONs that the target sent, as `code/subcode`. */
  get notifications(): string[] {
    return this.heard.filter(m => m.type === 3).map(m => `${m.body[0]}/${m.body[1]}`)
  }

  received(family: 4 | 6): number {
    return this.view.counts.find(count => count.family === family)?.received ?? 0
  }

  /** The honest neighbour's session as it sees it: nothing of this may change but messages. */
  get innocent() {
    const [peer] = this.honest.snapshot().peers
    return { state: peer!.state, since: peer!.since, flaps: peer!.flaps, errors: peer!.updateErrors }
  }
}
