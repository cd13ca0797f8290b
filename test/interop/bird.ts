/**
 * BIRD 2, and BIRD 1.6.8 as Calico's nodes run it: there one daemon per family, each with its own file and socket.
 * The two speak nearly one configuration language; what differs stands side by side here.
 */

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { unpackTool } from '../../scripts/tools.mjs'
import type { Family } from '../../src/lib/ip.ts'
import type { Lab } from '../fv/bgp-lab.ts'
import { Daemon, quietly, said, twoOctetAs } from './router.ts'
import type { NeighborWish, Path, Router, RouteWish, Wish } from './router.ts'
import { link } from './us.ts'

interface Programs {
  readonly version: 1 | 2
  /** Daemon and client, per family where each has its own. */
  readonly daemons: readonly { readonly bird: string; readonly birdc: string; readonly families: readonly Family[] }[]
}

export function bird2(lab: Lab): Router {
  return new Bird(lab, 'BIRD 2', {
    version: 2,
    daemons: [{ bird: 'bird', birdc: 'birdc', families: [4, 6] }],
  })
}

export async function bird1(lab: Lab): Promise<Router> {
  const root = await unpackTool('bird', () => {})
  return new Bird(lab, 'BIRD 1.6', {
    version: 1,
    daemons: [
      { bird: join(root, 'usr/sbin/bird'), birdc: join(root, 'usr/sbin/birdc'), families: [4] },
      { bird: join(root, 'usr/sbin/bird6'), birdc: join(root, 'usr/sbin/birdc6'), families: [6] },
    ],
  })
}

class Bird implements Router {
  readonly name: string
  readonly version: string
  readonly families: readonly Family[]
  readonly forwards = true
  readonly oldAs = true
  readonly lacks: Router['lacks']
  readonly limits = {}
  readonly #lab: Lab
  readonly #programs: Programs
  readonly #running: { daemon: Daemon; birdc: string; control: string; families: readonly Family[] }[] = []
  #wish: Wish | undefined

  constructor(lab: Lab, name: string, programs: Programs) {
    this.#lab = lab
    this.name = name
    this.#programs = programs
    this.version = said(programs.daemons[0]!.bird, '--version').replace('BIRD version ', '')
    this.families = programs.daemons[0]!.families
    this.lacks =
      programs.version === 1
        ? {
            mp: () => this.#refusal('ipv6 { import all; };', 'two families in one protocol'),
            'ext-nexthop': () => this.#refusal('extended next hop yes;', 'the option'),
          }
        : {}
  }

  async start(wish: Wish): Promise<void> {
    this.#wish = wish
    for (const [index, { bird, birdc, families }] of this.#programs.daemons.entries()) {
      const neighbors = wish.neighbors.filter(one => one.families.some(family => families.includes(family)))
      if (neighbors.length === 0) continue
      const control = join(this.#lab.folder, `bird${index}.ctl`)
      const path = this.#lab.file(`bird${index}.conf`, this.#text(wish, neighbors, families))
      const daemon = new Daemon(this.#lab)
      const args = ['-f', '-c', path, '-s', control, '-P', `${control}.pid`, ...(wish.restarting ? ['-R'] : [])]
      daemon.run(bird, ...args)
      this.#running.push({ daemon, birdc, control, families })
      await daemon.answers(
        this.name,
        () =>
          existsSync(control) && this.#lab.run(birdc, '-r', '-s', control, 'show', 'status').includes('up and running'),
      )
    }
  }

  async kill(): Promise<void> {
    for (const { daemon } of this.#running.splice(0)) await daemon.kill()
  }

  paths(prefix: string): Path[] {
    const one = this.#running.find(({ families }) => families.includes(prefix.includes(':') ? 6 : 4))
    if (!one) return []
    const words = ['show', 'route', prefix, 'all', 'where', 'source', '=', 'RTS_BGP']
    return readRoutes(quietly(() => this.#lab.run(one.birdc, '-r', '-s', one.control, ...words), ''))
  }

  isUp(neighbor: string): boolean {
    return /Established/.test(this.#ask(neighbor, 'show', 'protocols', protocolName(neighbor)))
  }

  refresh(neighbor: string): void {
    this.#ask(neighbor, 'reload', 'in', protocolName(neighbor))
  }

  goodbye(neighbor: string, words: string): void {
    this.#ask(neighbor, 'disable', protocolName(neighbor), `"${words}"`)
  }

  words(neighbor: string): string {
    return `${this.#ask(neighbor, 'show', 'protocols', 'all', protocolName(neighbor))} ${this.#lab.lastLines(20)}`
  }

  bfdUp(neighbor: string): boolean {
    const text = this.#ask(neighbor, 'show', 'bfd', 'sessions')
    return text.split('\n').some(line => line.startsWith(neighbor) && /\bUp\b/.test(line))
  }

  silenceBfd(): void {
    // It runs in BIRD itself.
    for (const { daemon } of this.#running) daemon.signal('SIGSTOP')
  }

  #ask(neighbor: string, ...words: string[]): string {
    const wish = this.#wish?.neighbors.find(one => one.address === neighbor)
    const one = this.#running.find(({ families }) => wish?.families.some(family => families.includes(family)))
    return one ? quietly(() => this.#lab.run(one.birdc, '-s', one.control, ...words), '') : ''
  }

  /** What BIRD says to a session with this line in it. */
  #refusal(line: string, what: string): string {
    const { bird } = this.#programs.daemons[0]!
    const neighbor: NeighborWish = { address: link.ours[4], local: link.theirs[4], as: 64512, families: [4] }
    const text = (more: string): string =>
      this.#text({ as: 65001, neighbors: [neighbor], routes: [] }, [neighbor], [4], more)
    const check = (more: string): string => said(bird, '-p', '-c', this.#lab.file('refused.conf', text(more)))
    if (check('') !== '') throw new Error(`without ${line} it says: ${check('')}`)
    const answer = check(line)
    if (answer === '') throw new Error(`it takes \`${line}\``)
    return `it refuses ${what}: \`${line}\`: ${answer.replace(/^.*refused\.conf[^ ]*\s*/, '').replace(/^bird: /, '')}`
  }

  #text(wish: Wish, neighbors: readonly NeighborWish[], families: readonly Family[], more = ''): string {
    const second = this.#programs.version === 2
    const statics = families
      .map(family => {
        const routes = wish.routes.filter(route => route.prefix.includes(':') === (family === 6))
        const lines = routes.map(route => `  route ${route.prefix} blackhole${attributes(route)};`).join('\n')
        return `protocol static own${family} {\n${second ? `  ipv${family};\n` : ''}${lines}\n}`
      })
      .join('\n')
    const wantsBfd = neighbors.some(one => one.bfd)
    return `log stderr all;
router id ${link.theirs[4]};
protocol device { scan time 1; }
${wantsBfd ? 'protocol bfd { interface "*" { interval 100 ms; multiplier 3; }; }' : ''}
${statics}
${neighbors.map(one => this.#protocol(wish, one, families, more)).join('\n')}
`
  }

  #protocol(wish: Wish, one: NeighborWish, families: readonly Family[], more: string): string {
    const channel = [
      'import all;',
      'export where source = RTS_STATIC || source = RTS_BGP;',
      one.addPath ? 'add paths yes;' : '',
      one.maxPrefix === undefined ? '' : `import limit ${one.maxPrefix} action disable;`,
      one.extendedNextHop ? 'extended next hop yes;' : '',
    ].join(' ')
    const mine = one.families.filter(family => families.includes(family))
    const routes =
      this.#programs.version === 2 ? mine.map(family => `  ipv${family} { ${channel} };`).join('\n') : `  ${channel}`
    return `protocol bgp ${protocolName(one.address)} {
  local ${one.local} as ${wish.as};
  neighbor ${one.address} as ${twoOctetAs(one)};
  debug { states, events };
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  graceful restart yes; graceful restart time ${one.longLived?.restartSeconds ?? 60};
  ${one.longLived ? `long lived graceful restart yes; long lived stale time ${one.longLived.seconds};` : ''}
  ${one.twoOctet ? 'enable as4 no;' : ''}
  enable extended messages yes;
  ${one.passive ? 'passive yes;' : ''} ${one.password ? `password "${one.password}";` : ''}
  ${one.gtsm ? 'ttl security yes;' : ''} ${one.client ? 'rr client;' : ''} ${one.bfd ? 'bfd yes;' : ''} ${more}
${routes}
}`
  }
}

function protocolName(address: string): string {
  return `n_${address.replaceAll(/[.:]/g, '_')}`
}

function attributes(route: RouteWish): string {
  const adds = (route.communities ?? []).map(one => {
    const parts = one.replace('rt:', '').split(':').join(',')
    if (one.startsWith('rt:')) return `bgp_ext_community.add((rt,${parts}));`
    return one.split(':').length === 3 ? `bgp_large_community.add((${parts}));` : `bgp_community.add((${parts}));`
  })
  return adds.length > 0 ? ` { ${adds.join(' ')} }` : ''
}

/** `show route all`: a line per path, its attributes indented by a tab. */
function readRoutes(text: string): Path[] {
  const paths: Path[] = []
  let fields: Map<string, string> | undefined
  const finish = (): void => {
    if (fields?.has('as_path')) paths.push(pathOf(fields))
  }
  for (const line of text.split('\n')) {
    const attribute = /^\s+BGP\.(\w+):(.*)$/.exec(line)
    if (attribute) fields?.set(attribute[1]!, attribute[2]!.trim())
    else if (/\[\S+ [\d:.-]+.*\]/.test(line)) {
      finish()
      fields = new Map()
    }
  }
  finish()
  return paths
}

function pathOf(fields: Map<string, string>): Path {
  const tuples = (name: string, prefix = ''): string[] =>
    [...(fields.get(name) ?? '').matchAll(/\(([^)]*)\)/g)].map(
      ([, inside]) => prefix + inside!.replaceAll(' ', '').replaceAll(',', ':'),
    )
  const originator = fields.get('originator_id')
  const clusters = fields.get('cluster_list')
  return {
    nextHop: (fields.get('next_hop') ?? '').split(' ')[0]!,
    asPath: (fields.get('as_path') ?? '').split(' ').filter(Boolean).map(Number),
    communities: [...tuples('community'), ...tuples('large_community'), ...tuples('ext_community')].toSorted(),
    ...(originator && { originator }),
    ...(clusters && { clusters: clusters.split(' ') }),
  }
}
