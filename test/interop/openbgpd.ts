/**
 * OpenBGPD, unpacked and not installed: its /usr/sbin/bgpd would stand in front of FRR's. The user that it becomes exists
 * only in a mount namespace of its own. Its parent process starts three others, which end when it does.
 */

import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { unpackTool } from '../../scripts/tools.mjs'
import type { Lab } from '../fv/bgp-lab.ts'
import { Daemon, manual, notOffered, quietly, quoted, said } from './router.ts'
import type { NeighborWish, Path, Router, RouteWish, Wish } from './router.ts'
import { link } from './us.ts'

/** The one library of it that hosts may lack. */
const library = 'libevent-2.1-7'
const ownMounts = 'mount --bind "$1" /etc/passwd; mount --bind "$2" /etc/group; shift 2; exec "$@"'

interface Rib {
  readonly rib?: readonly {
    readonly aspath?: string
    readonly exit_nexthop?: string
    readonly announced?: boolean
    readonly neighbor?: { readonly remote_addr?: string }
    readonly communities?: readonly string[]
    readonly large_communities?: readonly string[]
    readonly extended_communities?: readonly string[]
    readonly attributes?: readonly {
      readonly type: string
      readonly originator?: string
      readonly cluster_list?: readonly string[]
    }[]
  }[]
}

export async function openbgpd(lab: Lab): Promise<Router> {
  const root = await unpackTool('openbgpd', () => {})
  const libraries = join(await unpackTool(library, () => {}), 'usr/lib')
  const folder = readdirSync(libraries)[0]!
  return new OpenBgpd(lab, root, join(libraries, folder))
}

class OpenBgpd implements Router {
  readonly name = 'OpenBGPD'
  readonly version: string
  /** See `lacks.mp`. */
  readonly families = [4] as const
  readonly forwards = true
  readonly oldAs = true
  readonly lacks: Router['lacks']
  readonly limits: Router['limits'] = {
    'as2/none':
      'it is the one without four-octet numbers; with a neighbour that lists no capabilities it has no family: its log: "bad update, IPv4 unicast disabled"',
    'refresh/answer':
      'it asks; ours it logs as "AID IPv4 unicast not negotiated" while its own `show neighbor` calls that negotiated',
  }
  readonly #lab: Lab
  readonly #daemon: Daemon
  readonly #socket: string
  /** Argv up to the program's name, for the daemon and its client. */
  readonly #bgpd: readonly string[]
  readonly #bgpctl: readonly string[]

  constructor(lab: Lab, root: string, libraries: string) {
    const environment = ['env', `LD_LIBRARY_PATH=${libraries}`]
    this.#bgpd = [...environment, join(root, 'usr/sbin/bgpd')]
    this.#bgpctl = [...environment, join(root, 'usr/sbin/bgpctl')]
    this.version = /(\d+\.\d+)/.exec(said(this.#bgpd[0]!, ...this.#bgpd.slice(1), '-V'))?.[1] ?? 'unknown'
    const page = join(root, 'usr/share/man/man5/bgpd.conf.5.gz')
    this.#lab = lab
    this.#daemon = new Daemon(lab)
    this.#socket = join(lab.folder, 'bgpd.sock')
    const onlyMarker = (): string =>
      quoted(manual(page), /Currently only the End-of-RIB marker is supported[^.]*\./, 'bgpd.conf(5)')
    this.lacks = {
      mp: async probe => {
        const seen = await probe.fails()
        const out = this.#ask('show', 'rib', 'out', 'neighbor', link.ours[4])
        return `${quoted(out, /2001:db8:2::\/48\s+::1/, 'over an IPv4 session it names ::1 as IPv6 next hop; `show rib out`')}; ${seen}`
      },
      bfd: () => this.#refusal('bfd'),
      'ext-nexthop': notOffered(5, 'extended next hop'),
      'ext-messages': notOffered(6, 'extended message'),
      'gr-helper': onlyMarker,
      'gr-restart': onlyMarker,
      'llgr-helper': notOffered(71, 'long-lived graceful restart'),
      'llgr-restart': notOffered(71, 'long-lived graceful restart'),
    }
  }

  async start(wish: Wish): Promise<void> {
    // Its children lock themselves into this user's home.
    const home = join(this.#lab.folder, 'home')
    mkdirSync(home, { recursive: true, mode: 0o755 })
    const passwd = this.#lab.file(
      'passwd',
      `${readFileSync('/etc/passwd', 'utf8')}_openbgpd:x:64179:64179::${home}:/bin/false\n`,
    )
    const group = this.#lab.file('group', `${readFileSync('/etc/group', 'utf8')}_openbgpd:x:64179:\n`)
    rmSync(this.#socket, { force: true })
    const path = this.#lab.file('bgpd.conf', text(wish, this.#socket), 0o600)
    this.#daemon.run(
      'unshare',
      '--mount',
      'sh',
      '-ec',
      ownMounts,
      'sh',
      passwd,
      group,
      ...this.#bgpd,
      '-d',
      '-v',
      '-f',
      path,
    )
    await this.#daemon.answers('OpenBGPD', () => this.#ask('show', 'summary').includes('Neighbor'))
  }

  kill(): Promise<void> {
    return this.#daemon.kill()
  }

  paths(prefix: string): Path[] {
    const answer = quietly(() => JSON.parse(this.#ask('-j', 'show', 'rib', 'detail', prefix)) as Rib, {})
    return (answer.rib ?? [])
      .filter(path => path.announced !== true)
      .map(path => {
        const attribute = (name: string) => path.attributes?.find(one => one.type === name)
        const originator = attribute('Originator Id')?.originator
        const clusters = attribute('Cluster Id List')?.cluster_list
        return {
          nextHop: path.exit_nexthop ?? '',
          asPath: (path.aspath ?? '').split(' ').filter(Boolean).map(Number),
          communities: [
            ...(path.communities ?? []),
            ...(path.large_communities ?? []),
            ...(path.extended_communities ?? []).map(one => one.replace(' ', ':')),
          ].toSorted(),
          ...(originator && { originator }),
          ...(clusters && { clusters }),
        }
      })
  }

  isUp(neighbor: string): boolean {
    return /BGP state = Established/.test(this.#state(neighbor))
  }

  refresh(neighbor: string): void {
    this.#ask('neighbor', neighbor, 'refresh')
  }

  goodbye(neighbor: string, words: string): void {
    this.#ask('neighbor', neighbor, 'down', words)
  }

  words(neighbor: string): string {
    return `${this.#state(neighbor)} ${this.#lab.lastLines(20)}`
  }

  #state(neighbor: string): string {
    return quietly(() => this.#ask('show', 'neighbor', neighbor), '')
  }

  #ask(...words: string[]): string {
    return this.#lab.run(this.#bgpctl[0]!, ...this.#bgpctl.slice(1), '-s', this.#socket, ...words)
  }

  #refusal(line: string): string {
    const neighbor: NeighborWish = { address: link.ours[4], local: link.theirs[4], as: 64512, families: [4] }
    const wish: Wish = { as: 65001, neighbors: [neighbor], routes: [] }
    const check = (more: string): string =>
      said(
        this.#bgpd[0]!,
        ...this.#bgpd.slice(1),
        '-n',
        '-f',
        this.#lab.file('refused.conf', text(wish, this.#socket, more), 0o600),
      )
    if (!check('').includes('configuration OK')) throw new Error(`without ${line} it says: ${check('')}`)
    const answer = check(line)
    if (answer.includes('configuration OK')) throw new Error(`it takes \`${line}\``)
    return `it refuses \`${line}\`: ${answer.replaceAll(/\s+/g, ' ').replace(/^\S*refused\.conf:/, 'line ')}`
  }
}

/** It keeps MD5 keys on its listeners only for sessions without `local-address`; with one, an unsigned dial gets in. */
function text(wish: Wish, socket: string, more = ''): string {
  const session = (one: NeighborWish): string => `neighbor ${one.address} {
  remote-as ${one.as}
  ${one.password ? '' : `local-address ${one.local}`}
  announce IPv4 ${one.families.includes(4) ? 'unicast' : 'none'}
  announce IPv6 ${one.families.includes(6) ? 'unicast' : 'none'}
  ${one.twoOctet ? 'announce as-4byte no' : ''}
  ${one.passive ? 'passive' : ''}
  ${one.password ? `tcp md5sig password ${one.password}` : ''}
  ${one.gtsm ? 'ttl-security yes' : ''}
  ${one.client ? 'route-reflector' : ''}
  ${one.addPath ? 'announce add-path recv yes\n  announce add-path send all' : ''}
  ${one.maxPrefix === undefined ? '' : `max-prefix ${one.maxPrefix}`}
  ${more}
}`
  return `AS ${wish.as}
router-id ${link.theirs[4]}
fib-update no
connect-retry 1
socket "${socket}"
log updates
${wish.routes.map(route => `network ${route.prefix}${marks(route)}`).join('\n')}
${wish.neighbors.map(session).join('\n')}
allow from any
allow to any
`
}

function marks(route: RouteWish): string {
  const sets = (route.communities ?? []).map(one => {
    if (one.startsWith('rt:')) return `ext-community rt ${one.slice(3)}`
    return `${one.split(':').length === 3 ? 'large-community' : 'community'} ${one}`
  })
  return sets.length > 0 ? ` set { ${sets.join(' ')} }` : ''
}
