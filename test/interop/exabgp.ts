/**
 * ExaBGP: a speaker for programs. It keeps no table that it could be asked for: what it hears it tells the program beside
 * it as JSON, and this adapter keeps the table of that. It decides nothing and passes nothing on.
 */

import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Lab } from '../fv/bgp-lab.ts'
import { Daemon, notOffered, quietly, quoted, said, twoOctetAs } from './router.ts'
import type { Lack, NeighborWish, Path, Router, RouteWish, Wish } from './router.ts'
import { link } from './us.ts'

const ear = fileURLToPath(new URL('exabgp-ear.ts', import.meta.url))

interface Nlri {
  readonly nlri: string
  readonly 'path-information'?: string
}

interface Event {
  readonly type: string
  readonly neighbor: {
    readonly address?: { readonly peer: string }
    readonly state?: string
    readonly reason?: string
    readonly message?: {
      readonly update?: {
        readonly attribute?: Attributes
        readonly announce?: Readonly<Record<string, Readonly<Record<string, readonly Nlri[]>>>>
        readonly withdraw?: Readonly<Record<string, readonly Nlri[]>>
      }
    }
  }
}

interface Attributes {
  readonly 'as-path'?: readonly number[] | Readonly<Record<string, { readonly value: readonly number[] }>>
  readonly community?: readonly (readonly number[])[]
  readonly 'large-community'?: readonly (readonly number[])[]
  readonly 'extended-community'?: readonly { readonly string: string }[]
  readonly 'originator-id'?: string
  readonly 'cluster-list'?: readonly string[]
}

export function exabgp(lab: Lab): Router {
  return new ExaBgp(lab)
}

class ExaBgp implements Router {
  readonly name = 'ExaBGP'
  readonly version = /(\d+\.\d+\.\d+)/.exec(said('exabgp', '--version'))?.[1] ?? 'unknown'
  readonly families = [4, 6] as const
  readonly forwards = false
  readonly lacks: Router['lacks']
  readonly oldAs = true
  readonly limits: Router['limits'] = {
    'as2/none':
      'it is the one without four-octet numbers; to a neighbour that lists no capabilities it sends an End-of-RIB and no route',
    'max-prefix': 'our limit; it has none of its own (no such word in its configuration)',
    shutdown: 'its `teardown` takes a code and no text',
  }
  readonly #lab: Lab
  readonly #daemon: Daemon
  readonly #events: string
  readonly #commands: string

  constructor(lab: Lab) {
    this.#lab = lab
    this.#daemon = new Daemon(lab)
    this.#events = join(lab.folder, 'events')
    this.#commands = join(lab.folder, 'commands')
    const observed =
      (what: string, log?: RegExp): Lack =>
      async probe => {
        const seen = await probe.fails()
        if (!log) return `${what}; seen: ${seen}`
        return quoted(`${readFileSync(this.#events, 'utf8')} ${lab.lastLines(2000)}`, log, `${what}; its log`)
      }
    this.lacks = {
      bfd: () => this.#refusal('bfd enable;'),
      'rr-client': observed('it passes no routes on, so it cannot reflect'),
      refresh: observed(
        'it asks, but a request after an enhanced-refresh OPEN ends its session',
        /'RouteRefresh' object is not iterable/,
      ),
      shutdown: observed('it cannot read a NOTIFICATION with words', /can not decode update message of type \\*"3/),
      'llgr-helper': notOffered(71, 'long-lived graceful restart'),
      'llgr-restart': notOffered(71, 'long-lived graceful restart'),
      'gr-restart': observed('it keeps no table of routes over a session'),
    }
  }

  defect(feature: string): string | undefined {
    const found = /'NoneType' object has no attribute 'router_id'/.exec(this.#lab.lastLines(2000))
    if (feature !== 'collision' || !found) return undefined
    return `its code for two connections at once fails at times, and did; its log: "${found[0]}"`
  }

  async start(wish: Wish): Promise<void> {
    for (const file of [this.#events, this.#commands]) writeFileSync(file, '', { mode: 0o666 })
    const path = this.#lab.file('exabgp.conf', this.#text(wish))
    const settings = {
      'daemon.user': 'root',
      'daemon.drop': 'false',
      'tcp.bind': `${link.theirs[4]} ${link.theirs[6]}`,
      'api.cli': 'false',
      'api.ack': 'false',
      'log.destination': 'stdout',
      'log.level': 'DEBUG',
      'log.packets': 'false',
    }
    const environment = Object.entries(settings).map(([name, value]) => `exabgp.${name}=${value}`)
    this.#daemon.run('env', ...environment, 'exabgp', path)
    await this.#daemon.answers('ExaBGP', () => existsSync(this.#events) && this.#listens())
  }

  kill(): Promise<void> {
    return this.#daemon.kill()
  }

  paths(prefix: string): Path[] {
    const paths = new Map<string, Path>()
    for (const { type, neighbor } of this.#told()) {
      if (type === 'state' && neighbor.state === 'down') paths.clear()
      const update = neighbor.message?.update
      for (const list of Object.values(update?.withdraw ?? {}))
        for (const one of list) if (one.nlri === prefix) paths.delete(one['path-information'] ?? '')
      for (const byHop of Object.values(update?.announce ?? {}))
        for (const [hop, list] of nextHops(byHop))
          for (const one of list)
            if (one.nlri === prefix) paths.set(one['path-information'] ?? '', pathOf(hop, update?.attribute ?? {}))
    }
    return [...paths.values()]
  }

  isUp(neighbor: string): boolean {
    const states = this.#told().filter(one => one.type === 'state' && one.neighbor.address?.peer === neighbor)
    return states.at(-1)?.neighbor.state === 'up'
  }

  refresh(neighbor: string): void {
    const family = neighbor.includes(':') ? 'ipv6' : 'ipv4'
    appendFileSync(this.#commands, `neighbor ${neighbor} announce route-refresh ${family} unicast\n`)
  }

  goodbye(neighbor: string): void {
    appendFileSync(this.#commands, `neighbor ${neighbor} teardown 2\n`)
  }

  words(neighbor: string): string {
    const told = this.#told().filter(one => one.neighbor.address?.peer === neighbor && one.type === 'state')
    return `${JSON.stringify(told.slice(-2))} ${this.#lab.lastLines(200)}`
  }

  #told(): Event[] {
    const lines = readFileSync(this.#events, 'utf8').split('\n')
    // The last one may not be complete yet.
    return lines
      .flatMap(line => quietly(() => [JSON.parse(line) as Event], []))
      .filter(one => one.neighbor !== undefined)
  }

  #listens(): boolean {
    return this.#lab.run('ss', '-Htln', 'sport = :179').includes(link.theirs[4])
  }

  #refusal(line: string): string {
    const neighbor: NeighborWish = { address: link.ours[4], local: link.theirs[4], as: 64512, families: [4] }
    const wish: Wish = { as: 65001, neighbors: [neighbor], routes: [] }
    const check = (more: string): string =>
      said('exabgp', '--test', this.#lab.file('refused.conf', this.#text(wish, more)))
    const good = check('')
    if (/syntax error|invalid keyword/.test(good)) throw new Error(`without ${line} it says: ${good}`)
    const bad = /invalid keyword "\w+"/.exec(check(line))
    if (!bad) throw new Error(`it takes \`${line}\``)
    return `it refuses \`${line}\`: ${bad[0]}`
  }

  #text(wish: Wish, more = ''): string {
    const session = (one: NeighborWish): string => `neighbor ${one.address} {
  router-id ${link.theirs[4]};
  local-address ${one.local};
  local-as ${wish.as};
  peer-as ${twoOctetAs(one)};
  ${one.passive ? 'passive true;' : ''}
  ${one.password ? `md5-password "${one.password}";` : ''}
  ${one.gtsm ? 'outgoing-ttl 255; incoming-ttl 255;' : ''}
  ${more}
  capability {
    route-refresh enable;
    ${one.twoOctet ? 'asn4 disable;' : ''}
    graceful-restart 60;
    extended-message enable;
    ${one.addPath ? 'add-path send/receive;' : ''}
    ${one.extendedNextHop ? 'nexthop enable;' : ''}
  }
  family { ${one.families.map(family => `ipv${family} unicast;`).join(' ')} }
  ${one.addPath ? `add-path { ${one.families.map(family => `ipv${family} unicast;`).join(' ')} }` : ''}
  ${one.extendedNextHop ? 'nexthop { ipv4 unicast ipv6; }' : ''}
  api { processes [ ear ]; neighbor-changes; receive { parsed; update; } }
  static {
${wish.routes.map((route, i) => `    route ${route.prefix} next-hop ${hopOf(route)}${marks(route)}${one.addPath ? ` path-information 0.0.0.${i + 1}` : ''};`).join('\n')}
  }
}`
    return `process ear {
  run ${process.execPath} ${ear} ${this.#events} ${this.#commands};
  encoder json;
}
${wish.neighbors.map(session).join('\n')}
`
  }
}

/** Both addresses of one IPv6 next hop (RFC 2545 §3) stand there with the same routes: the global one counts, told last. */
function nextHops<T>(byHop: Readonly<Record<string, T>>): [string, T][] {
  return Object.entries(byHop).toSorted(([a], [b]) => Number(b.startsWith('fe80:')) - Number(a.startsWith('fe80:')))
}

function hopOf(route: RouteWish): string {
  return route.nextHop ?? link.theirs[route.prefix.includes(':') ? 6 : 4]
}

function marks(route: RouteWish): string {
  const kinds = { community: [] as string[], 'large-community': [] as string[], 'extended-community': [] as string[] }
  for (const one of route.communities ?? []) {
    if (one.startsWith('rt:')) kinds['extended-community'].push(one.replace('rt:', 'target:'))
    else kinds[one.split(':').length === 3 ? 'large-community' : 'community'].push(one)
  }
  const path = route.asPath ? ` as-path [ ${route.asPath.join(' ')} ]` : ''
  return Object.entries(kinds)
    .map(([kind, list]) => (list.length > 0 ? ` ${kind} [ ${list.join(' ')} ]` : ''))
    .join('')
    .concat(path)
}

function pathOf(nextHop: string, said: Attributes): Path {
  const path = said['as-path'] ?? []
  const asPath = Array.isArray(path)
    ? (path as readonly number[])
    : Object.values(path as Readonly<Record<string, { readonly value: readonly number[] }>>).flatMap(one => one.value)
  return {
    nextHop,
    asPath,
    communities: [
      ...(said.community ?? []).map(one => one.join(':')),
      ...(said['large-community'] ?? []).map(one => one.join(':')),
      ...(said['extended-community'] ?? []).map(one => one.string.replace('target:', 'rt:')),
    ].toSorted(),
    ...(said['originator-id'] && { originator: said['originator-id'] }),
    ...(said['cluster-list'] && { clusters: said['cluster-list'] }),
  }
}
