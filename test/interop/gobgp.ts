/**
 * GoBGP: a TOML file for sessions, routes added through its API once it answers. After a restart its sessions are held
 * back until the routes are there again, or its End-of-RIB would come before them.
 */

import type { Lab } from '../fv/bgp-lab.ts'
import { Daemon, notOffered, quietly, said } from './router.ts'
import type { NeighborWish, Path, Router, Wish } from './router.ts'
import { link } from './us.ts'

interface Attribute {
  readonly type: number
  readonly value?: unknown
  readonly nexthop?: string
  readonly as_paths?: readonly { readonly asns?: readonly number[] }[]
  readonly communities?: readonly number[]
}

interface GobgpPath {
  readonly attrs: readonly Attribute[]
  readonly 'neighbor-ip'?: string
}

export function gobgp(lab: Lab): Router {
  return new Gobgp(lab)
}

class Gobgp implements Router {
  readonly name = 'GoBGP'
  readonly version = /(\d+\.\d+\.\d+)/.exec(said('gobgpd', '--version'))?.[1] ?? 'unknown'
  readonly families = [4, 6] as const
  readonly forwards = true
  readonly lacks: Router['lacks']
  readonly limits: Router['limits'] = {
    refresh: 'it answers; `gobgp neighbor ... softresetin` looks at what it has kept and sends no ROUTE-REFRESH',
  }
  readonly #lab: Lab
  readonly #daemon: Daemon

  constructor(lab: Lab) {
    this.#lab = lab
    this.#daemon = new Daemon(lab)
    this.lacks = {
      'ext-messages': notOffered(6, 'extended message'),
      bfd: () => this.#noBfd(),
    }
  }

  async start(wish: Wish): Promise<void> {
    const path = this.#lab.file('gobgpd.toml', text(wish))
    const args = ['-f', path, '--api-hosts', '127.0.0.1:50051', '--log-plain', '-l', 'debug']
    this.#daemon.run('gobgpd', ...args, ...(wish.restarting ? ['-r'] : []))
    await this.#daemon.answers('GoBGP', () => this.#ask('global').includes('AS:'))
    this.#originate(wish)
    if (wish.restarting) for (const one of wish.neighbors) this.#ask('neighbor', one.address, 'enable')
  }

  #originate(wish: Wish): void {
    for (const route of wish.routes) {
      const six = route.prefix.includes(':')
      const marks = (route.communities ?? []).flatMap(one => {
        if (one.startsWith('rt:')) return ['rt', one.slice(3)]
        return [one.split(':').length === 3 ? 'large-community' : 'community', one]
      })
      const hop = route.nextHop ?? (six ? link.theirs[6] : undefined)
      const family = six ? ['-a', 'ipv6'] : []
      this.#ask('global', 'rib', ...family, 'add', route.prefix, ...(hop ? ['nexthop', hop] : []), ...marks)
    }
  }

  kill(): Promise<void> {
    return this.#daemon.kill()
  }

  paths(prefix: string): Path[] {
    const family = prefix.includes(':') ? 'ipv6' : 'ipv4'
    const answer = quietly(
      () => JSON.parse(this.#ask('global', 'rib', '-a', family, prefix, '-j')) as Record<string, GobgpPath[]>,
      {},
    )
    return (answer[prefix] ?? []).filter(path => (path['neighbor-ip'] ?? '<nil>') !== '<nil>').map(pathOf)
  }

  isUp(neighbor: string): boolean {
    return /BGP state = ESTABLISHED/i.test(quietly(() => this.#ask('neighbor', neighbor), ''))
  }

  refresh(neighbor: string): void {
    this.#ask('neighbor', neighbor, 'softresetin')
  }

  goodbye(neighbor: string, words: string): void {
    this.#ask('neighbor', neighbor, 'shutdown', '--reason', words)
  }

  words(neighbor: string): string {
    return `${quietly(() => this.#ask('neighbor', neighbor), '')} ${this.#lab.lastLines(20)}`
  }

  #ask(...words: string[]): string {
    return this.#lab.run('gobgp', '-u', '127.0.0.1', '-p', '50051', ...words)
  }

  /** It refuses fields that it does not know. */
  #noBfd(): string {
    const neighbor: NeighborWish = { address: link.ours[4], local: link.theirs[4], as: 64512, families: [4] }
    const plain = text({ as: 65001, neighbors: [neighbor], routes: [] })
    const file = this.#lab.file('refused.toml', `${plain}\n  [neighbors.bfd.config]\n    enabled = true\n`)
    const check = (path: string): string => said('gobgpd', '--dry-run', '-f', path)
    const good = check(this.#lab.file('plain.toml', plain))
    const bad = check(file)
    if (!/bfd/i.test(bad)) throw new Error(`it takes [neighbors.bfd.config]: ${bad}; without: ${good}`)
    return `it refuses \`[neighbors.bfd.config]\`: ${bad.replaceAll(/\s+/g, ' ')}`
  }
}

function text(wish: Wish): string {
  return `[global.config]
  as = ${wish.as}
  router-id = "${link.theirs[4]}"
${wish.neighbors.map(one => session(one, wish.restarting === true)).join('\n')}
`
}

function session(one: NeighborWish, isHeld: boolean): string {
  return `[[neighbors]]
  [neighbors.config]
    neighbor-address = "${one.address}"
    peer-as = ${one.as}
    admin-down = ${isHeld}
    ${one.password ? `auth-password = "${one.password}"` : ''}
  [neighbors.transport.config]
    local-address = "${one.local}"
    passive-mode = ${one.passive === true}
  [neighbors.timers.config]
    connect-retry = 1
    idle-hold-time-after-reset = 1
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = ${one.longLived?.restartSeconds ?? 60}
    deferral-time = 3
    ${one.longLived ? 'long-lived-enabled = true' : ''}
  ${one.gtsm ? '[neighbors.ttl-security.config]\n    enabled = true\n    ttl-min = 255' : ''}
  ${one.client ? `[neighbors.route-reflector.config]\n    route-reflector-client = true\n    route-reflector-cluster-id = "${link.theirs[4]}"` : ''}
${one.families.map(family => channel(one, family)).join('\n')}`
}

function channel(one: NeighborWish, family: number): string {
  return `  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv${family}-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
    ${one.longLived ? `[neighbors.afi-safis.long-lived-graceful-restart.config]\n      enabled = true\n      restart-time = ${one.longLived.seconds}` : ''}
    ${one.addPath ? '[neighbors.afi-safis.add-paths.config]\n      receive = true\n      send-max = 8' : ''}
    ${one.maxPrefix === undefined ? '' : `[neighbors.afi-safis.prefix-limit.config]\n      max-prefixes = ${one.maxPrefix}`}`
}

function pathOf({ attrs }: GobgpPath): Path {
  const byType = new Map(attrs.map(one => [one.type, one]))
  const reach = byType.get(3) ?? byType.get(14)
  const originator = byType.get(9)?.value
  const clusters = byType.get(10)?.value
  return {
    nextHop: reach?.nexthop ?? '',
    asPath: (byType.get(2)?.as_paths ?? []).flatMap(segment => segment.asns ?? []),
    communities: [
      ...(byType.get(8)?.communities ?? []).map(one => `${one >>> 16}:${one & 0xffff}`),
      ...large(byType.get(32)?.value),
      ...extended(byType.get(16)?.value),
    ].toSorted(),
    ...(typeof originator === 'string' && { originator }),
    ...(Array.isArray(clusters) && { clusters: clusters.map(String) }),
  }
}

function large(value: unknown): string[] {
  if (!Array.isArray(value)) return []
  return (value as { ASN: number; LocalData1: number; LocalData2: number }[]).map(
    one => `${one.ASN}:${one.LocalData1}:${one.LocalData2}`,
  )
}

function extended(value: unknown): string[] {
  if (!Array.isArray(value)) return []
  return (value as { type: number; subtype: number; value: string }[]).map(one => `rt:${one.value}`)
}
