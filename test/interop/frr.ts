/** FRR: zebra, which knows the interfaces, runs as long as the lane; bgpd, and bfdd where asked for, per cell. */

import { chmodSync, existsSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Family } from '../../src/lib/ip.ts'
import type { Lab } from '../fv/bgp-lab.ts'
import { Daemon, quietly, said } from './router.ts'
import type { NeighborWish, Path, Router, RouteWish, Wish } from './router.ts'
import { link } from './us.ts'

interface FrrPath {
  readonly aspath?: { readonly string?: string }
  readonly nexthops?: readonly { readonly ip: string; readonly scope?: string }[]
  readonly peer?: { readonly peerId?: string }
  readonly community?: { readonly string?: string }
  readonly largeCommunity?: { readonly string?: string }
  readonly extendedCommunity?: { readonly string?: string }
  readonly originatorId?: string
  readonly clusterList?: { readonly list?: readonly string[] }
}

export function frr(lab: Lab): Router {
  return new Frr(lab)
}

class Frr implements Router {
  readonly name = 'FRR'
  readonly version = /version (\S+)/.exec(said('/usr/lib/frr/bgpd', '--version'))?.[1] ?? 'unknown'
  readonly families = [4, 6] as const
  readonly forwards = true
  readonly lacks = {}
  readonly limits = {}
  readonly #lab: Lab
  readonly #sockets: string
  readonly #zserv: string
  readonly #zebra: Daemon
  readonly #bgpd: Daemon
  readonly #bfdd: Daemon
  #as = 0

  constructor(lab: Lab) {
    this.#lab = lab
    this.#sockets = join(lab.folder, 'frr')
    this.#zserv = join(lab.folder, 'zserv.api')
    this.#zebra = new Daemon(lab)
    this.#bgpd = new Daemon(lab)
    this.#bfdd = new Daemon(lab)
    mkdirSync(this.#sockets)
    // Zebra and bfdd run as the user `frr` and make their sockets here.
    for (const folder of [lab.folder, this.#sockets]) chmodSync(folder, 0o777)
  }

  async start(wish: Wish): Promise<void> {
    this.#as = wish.as
    if (this.#zebra.gone) {
      this.#run(this.#zebra, 'zebra', this.#lab.file('zebra.conf', 'hostname gateway\n'))
      await this.#zebra.answers('zebra', () => existsSync(this.#zserv))
    }
    if (wish.neighbors.some(one => one.bfd)) {
      const control = join(this.#sockets, 'bfdd.sock')
      this.#run(this.#bfdd, 'bfdd', this.#lab.file('bfdd.conf', 'hostname gateway\n'), '--bfdctl', control)
      await this.#bfdd.answers('bfdd', () => this.#vtysh('bfdd', 'show version') !== '')
    }
    rmSync(join(this.#sockets, 'bgpd.vty'), { force: true })
    this.#run(this.#bgpd, 'bgpd', this.#lab.file('bgpd.conf', text(wish)), '-S', '--log', 'stdout')
    await this.#bgpd.answers('bgpd', () => this.#vtysh('bgpd', 'show version') !== '')
  }

  async kill(): Promise<void> {
    await this.#bgpd.kill()
    await this.#bfdd.kill()
  }

  paths(prefix: string): Path[] {
    const family = prefix.includes(':') ? 'ipv6' : 'ipv4'
    const answer = quietly(
      () => JSON.parse(this.#vtysh('bgpd', `show bgp ${family} unicast ${prefix} json`)) as { paths?: FrrPath[] },
      {},
    )
    return (answer.paths ?? []).filter(path => (path.peer?.peerId ?? '0.0.0.0') !== '0.0.0.0').map(pathOf)
  }

  isUp(neighbor: string): boolean {
    return /BGP state = Established/.test(this.#state(neighbor))
  }

  refresh(neighbor: string): void {
    this.#vtysh('bgpd', `clear bgp ${neighbor.includes(':') ? 'ipv6' : 'ipv4'} ${neighbor} soft in`)
  }

  goodbye(neighbor: string, words: string): void {
    this.#vtysh('bgpd', 'conf t', `router bgp ${this.#as}`, `neighbor ${neighbor} shutdown message ${words}`)
  }

  words(neighbor: string): string {
    return `${this.#state(neighbor)} ${this.#lab.lastLines(20)}`
  }

  bfdUp(neighbor: string): boolean {
    return new RegExp(`peer ${neighbor} [\\s\\S]*Status: up`).test(
      quietly(() => this.#vtysh('bfdd', `show bfd peers`), ''),
    )
  }

  silenceBfd(): void {
    this.#bfdd.signal('SIGSTOP')
  }

  #state(neighbor: string): string {
    return quietly(() => this.#vtysh('bgpd', `show bgp neighbors ${neighbor}`), '')
  }

  #run(daemon: Daemon, program: string, file: string, ...more: string[]): void {
    const pid = join(this.#lab.folder, `${program}.pid`)
    const args = ['-f', file, '-P', '0', '-i', pid, '-z', this.#zserv, '--vty_socket', this.#sockets]
    daemon.run(`/usr/lib/frr/${program}`, ...args, ...more)
  }

  #vtysh(program: string, ...commands: string[]): string {
    const words = commands.flatMap(command => ['-c', command])
    return this.#lab.run('vtysh', '--vty_socket', this.#sockets, '-d', program, ...words)
  }
}

function text(wish: Wish): string {
  const family = (which: Family): string => `
 address-family ipv${which} unicast
${wish.routes
  .filter(route => route.prefix.includes(':') === (which === 6))
  .map(route => `  network ${route.prefix}${route.communities ? ' route-map marks' : ''}`)
  .join('\n')}
${wish.neighbors
  .filter(one => one.families.includes(which))
  .map(inFamily)
  .join('\n')}
 exit-address-family`
  return `hostname gateway
log timestamp precision 3
router bgp ${wish.as}
 bgp router-id ${link.theirs[4]}
 bgp log-neighbor-changes
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
${longLived(wish)}
${wish.neighbors.map(session).join('\n')}
${([4, 6] as const).map(family).join('\n')}
exit
${marks(wish.routes)}
`
}

/** One setting for all sessions. */
function longLived({ neighbors }: Wish): string {
  const wanted = neighbors.find(one => one.longLived)?.longLived
  if (!wanted) return ''
  return ` bgp graceful-restart restart-time ${wanted.restartSeconds}
 bgp long-lived-graceful-restart stale-time ${wanted.seconds}`
}

/** It prints well-known communities by name. */
function community(word: string): string {
  return word === 'llgr-stale' ? '65535:6' : word
}

function session(one: NeighborWish): string {
  const lines = [
    `remote-as ${one.as}`,
    'timers connect 1',
    `update-source ${one.local}`,
    one.passive ? 'passive' : '',
    one.password ? `password ${one.password}` : '',
    one.gtsm ? 'ttl-security hops 1' : '',
    one.extendedNextHop ? 'capability extended-nexthop' : '',
    one.bfd ? 'bfd 3 100 100' : '',
  ]
  return lines
    .filter(Boolean)
    .map(line => ` neighbor ${one.address} ${line}`)
    .join('\n')
}

function inFamily(one: NeighborWish): string {
  const lines = [
    'activate',
    one.client ? 'route-reflector-client' : '',
    one.addPath ? 'addpath-tx-all-paths' : '',
    one.maxPrefix === undefined ? '' : `maximum-prefix ${one.maxPrefix}`,
  ]
  return lines
    .filter(Boolean)
    .map(line => `  neighbor ${one.address} ${line}`)
    .join('\n')
}

function marks(routes: readonly RouteWish[]): string {
  const all = routes.flatMap(route => route.communities ?? [])
  if (all.length === 0) return ''
  const sets = all.map(one => {
    if (one.startsWith('rt:')) return ` set extcommunity ${one.replace(':', ' ')}`
    return ` set ${one.split(':').length === 3 ? 'large-community' : 'community'} ${one}`
  })
  return `route-map marks permit 10\n${sets.join('\n')}`
}

function pathOf(path: FrrPath): Path {
  const words = (text: string | undefined): string[] => (text ?? '').split(' ').filter(Boolean)
  const clusters = path.clusterList?.list
  // FRR shows the link-local address beside the global one.
  const hops = path.nexthops ?? []
  return {
    nextHop: (hops.find(hop => hop.scope !== 'link-local') ?? hops[0])?.ip ?? '',
    asPath: words(path.aspath?.string).map(Number).filter(Number.isFinite),
    communities: [
      ...words(path.community?.string).map(community),
      ...words(path.largeCommunity?.string),
      ...words(path.extendedCommunity?.string).map(one => one.replace('RT:', 'rt:')),
    ].toSorted(),
    ...(path.originatorId && { originator: path.originatorId }),
    ...(clusters && { clusters }),
  }
}
