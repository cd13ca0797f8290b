/**
 * A gateway made of our own speaker, for a lab on a machine without BIRD, FRR and GoBGP: sessions with the nodes, and what
 * they announce as kernel routes of protocol 186 (bgp), so that it forwards.
 *
 *   gateway.ts CONFIG.json          (GatewayConfig of routers.ts)
 *
 * Restarts keep traffic flowing: routes found at the start are taken as kept (RFC 4724 §4.1), and swept only once the
 * peers have told everything. Its sessions stand in a file for `lab status`, written at each change.
 */

import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { type PeerConfig, Speaker, acceptAll, rejectAll, type RouteUpdate } from '../../bgp/index.ts'
import { reasonOf } from '../../lib/errors.ts'
import { Ip } from '../../lib/ip.ts'
import type { Family, Prefix } from '../../lib/ip.ts'
import type { Kernel, KernelRoute } from '../../lib/ports.ts'
import { SystemClock, SystemRandom } from '../../platform/clock.ts'
import { createKernel } from '../../platform/linux/kernel.ts'
import { createLog } from '../../platform/log.ts'
import { createTcpTransport } from '../../platform/tcp.ts'
import type { GatewayConfig, Session } from './routers.ts'

const mainTable = 254
const bgpProtocol = 186
const metric = 32

const families = [4, 6] as const

class Gateway {
  readonly #config: GatewayConfig
  readonly #kernel: Kernel
  readonly #log = createLog()
  readonly #clock = new SystemClock()
  readonly #speaker: Speaker
  /** Wanted routes by prefix. */
  readonly #desired = new Map<string, KernelRoute>()
  /** Kernel work, one piece after the other. */
  #work: Promise<void> = Promise.resolve()

  constructor(config: GatewayConfig, kernel: Kernel, kept: readonly Family[]) {
    this.#config = config
    this.#kernel = kernel
    this.#speaker = new Speaker(
      {
        ...(kept.length > 0 && { restarted: { forwardingKept: kept } }),
        onRoutes: changes => this.#routesChanged(changes),
        onState: change => {
          this.#log.info('session', { peer: change.name, from: change.from, to: change.to })
          this.#writeSessions()
        },
        onConverged: family => this.#queue(() => this.#sweep(family)),
        onProblem: problem => this.#log.error('listening', { ...problem }),
      },
      { clock: this.#clock, transport: createTcpTransport(), random: new SystemRandom(), log: this.#log },
    )
  }

  start(): void {
    const { as, ip, ip6, peers } = this.#config
    const own = [Ip.of(ip), ...(ip6 === undefined ? [] : [Ip.of(ip6)])]
    this.#speaker.configure({
      routerId: own[0]!,
      localAs: as,
      listen: own.map(one => ({ ip: one, port: 179 })),
      originate: [],
      addresses: own.map(one => ({ ip: one, length: one.family === 4 ? 24 : 64 })),
      peers: peers.map((peer): PeerConfig => {
        const address = Ip.of(peer.ip)
        const source = own.find(one => one.family === address.family)
        return {
          key: address.key,
          name: peer.name,
          origin: 'global',
          address,
          port: 179,
          remoteAs: peer.as,
          localAs: as,
          client: false,
          families: [address.family],
          // Between racks, sessions run over the backbone: the kernel picks the address there.
          ...(source && !peer.exchange && { source }),
          passive: false,
          holdSeconds: 90,
          connectRetrySeconds: 3,
          gracefulRestart: 'full',
          restartSeconds: 120,
          nextHopMode: peer.exchange ? 'self' : 'auto',
          allowOwnAs: 0,
          addPath: false,
          importPolicy: acceptAll,
          exportPolicy: peer.exchange ? acceptAll : rejectAll,
        }
      }),
    })
    this.#speaker.start()
    this.#writeSessions()
  }

  stop(done: () => void): void {
    // The routes stand: whoever stops a gateway of a lab restarts it, or takes the namespace away.
    this.#speaker.stop({ graceful: true }, () => {
      void this.#work.then(done)
    })
  }

  #routesChanged(changes: readonly RouteUpdate[]): void {
    this.#queue(async () => {
      const work = changes.map(change => {
        const route = routeTo(change.prefix, change.nextHops)
        if (change.nextHops.length > 0) this.#desired.set(change.prefix.key, route)
        else this.#desired.delete(change.prefix.key)
        return { kind: change.nextHops.length > 0 ? ('set' as const) : ('remove' as const), route }
      })
      const outcomes = await this.#kernel.changeRoutes(work)
      for (const [i, outcome] of outcomes.entries())
        if (!outcome.ok)
          this.#log.warn('kernel refused a route', { prefix: work[i]!.route.prefix.key, why: outcome.message })
    })
  }

  async #sweep(family: Family): Promise<void> {
    const left = (await ownRoutes(this.#kernel, family)).filter(route => !this.#desired.has(route.prefix.key))
    if (left.length > 0) await this.#kernel.changeRoutes(left.map(route => ({ kind: 'remove', route })))
  }

  #queue(work: () => Promise<void>): void {
    this.#work = this.#work.then(work).catch((error: unknown) => this.#log.error(reasonOf(error)))
  }

  #writeSessions(): void {
    const sessions: Session[] = this.#speaker
      .snapshot()
      .peers.map(peer => ({ peer: peer.address, established: peer.state === 'Established' }))
    const temporary = `${this.#config.sessionsFile}.new`
    writeFileSync(temporary, JSON.stringify(sessions))
    renameSync(temporary, this.#config.sessionsFile)
  }
}

function routeTo(prefix: Prefix, nextHops: readonly Ip[]): KernelRoute {
  return {
    prefix,
    kind: 'unicast',
    table: mainTable,
    protocol: bgpProtocol,
    metric,
    nextHops: nextHops.map(via => ({ via })),
  }
}

async function ownRoutes(kernel: Kernel, family: Family): Promise<KernelRoute[]> {
  return (await kernel.routes(family)).filter(route => route.protocol === bgpProtocol)
}

const file = process.argv[2]
if (file === undefined) {
  console.error('error[U01]: usage: gateway.ts CONFIG.json')
  process.exit(2)
}
const kernel = await createKernel()
const kept: Family[] = []
for (const family of families) if ((await ownRoutes(kernel, family)).length > 0) kept.push(family)
const gateway = new Gateway(JSON.parse(readFileSync(file, 'utf8')) as GatewayConfig, kernel, kept)
gateway.start()
for (const name of ['SIGTERM', 'SIGINT'] as const) process.on(name, () => gateway.stop(() => process.exit(0)))
