/**
 * The daemons that are measured: how each is started in the bench's namespace, which version it is, and what it must be
 * given before it is loaded. All run in the foreground and end when they are told to.
 *
 * OpenBGPD is unpacked and not installed (scripts/tools.mjs); its user exists in a mount namespace of its own.
 */

import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { hasProgram, unpackTool } from '../../../scripts/tools.mjs'
import { birdConfig, frrConfig, gobgpConfig, manxConfig, openbgpdConfig } from './configs.ts'
import { daemonAddress, gateway, type Scene } from './scene.ts'

const here = dirname(fileURLToPath(import.meta.url))
const root = join(here, '../../..')

export interface Daemon {
  readonly name: string
  /** Empty when it is not on this machine. */
  version(): Promise<string>
  /** Writes its files into the folder; answers what to run. */
  command(scene: Scene, folder: string): Promise<readonly string[]>
  /** Seconds between its last session and the load. */
  settleSeconds(scene: Scene): number
}

const shortly = (): number => 1.5

const manx: Daemon = {
  name: 'manx',
  version: async () => `${said(join(root, 'bin/manx-bgp'), '--version')}, Node ${process.version}`,
  command: async (scene, folder) => [
    join(root, 'bin/manx-bgp'),
    '--config',
    written(folder, 'manx.json', manxConfig(scene)),
    '--log-level',
    'error',
  ],
  settleSeconds: shortly,
}

const bird: Daemon = {
  name: 'bird2',
  version: async () => (hasProgram('bird') ? said('bird', '--version').replace('version ', '') : ''),
  command: async (scene, folder) => [
    'bird',
    ...words(`-f -s ${join(folder, 'bird.ctl')} -P ${join(folder, 'bird.pid')} -c`),
    written(folder, 'bird.conf', birdConfig(scene)),
  ],
  settleSeconds: shortly,
}

const frrBgpd = '/usr/lib/frr/bgpd'

const frr: Daemon = {
  name: 'frr',
  version: async () => (existsSync(frrBgpd) ? said(frrBgpd, '--version').replace(/^bgpd version/, 'FRR') : ''),
  command: async (scene, folder) => {
    const zserv = join(folder, 'zserv.api')
    const bgpd = [
      frrBgpd,
      ...words(
        `${scene.kernel ? `-z ${zserv}` : '-n -Z'} -S -l ${daemonAddress(scene.family)} -p 179 -P 0 -i ${join(folder, 'frr.pid')} --vty_socket ${folder} -f`,
      ),
      written(folder, 'frr.conf', frrConfig(scene)),
    ]
    if (!scene.kernel) return bgpd
    // Routes go into the kernel by a second process, which insists on a user of its own.
    chmodSync(folder, 0o777)
    const zebra = `/usr/lib/frr/zebra -u frr -g frr -P 0 -i ${join(folder, 'zebra.pid')} --vty_socket ${folder} -z ${zserv} -f`
    const both = 'zebra=$1; shift; $zebra & one=$!; sleep 0.5; "$@" & trap "kill $one $!" TERM; wait; wait'
    return [
      ...words('sh -c'),
      both,
      'sh',
      `${zebra} ${written(folder, 'zebra.conf', 'log stdout critical\n', 0o644)}`,
      ...bgpd,
    ]
  },
  // It holds back the first announcements to a group of peers for 1 s + 50 ms x peers, at most 10 s; and 5 s after it has
  // read route maps it runs them again on everything.
  settleSeconds: ({ neighbors, filters }) => Math.min(12, (filters ? 7 : 3) + 0.05 * neighbors.length),
}

const openbgpd: Daemon = {
  name: 'openbgpd',
  version: async () => said(...(await openbgpdProgram()), '-V').replace('OpenBGPD-Portable', 'OpenBGPD'),
  command: async (scene, folder) => {
    const home = join(folder, 'home')
    mkdirSync(home, { recursive: true, mode: 0o755 })
    const passwd = `${readFileSync('/etc/passwd', 'utf8')}_openbgpd:x:64179:64179::${home}:/bin/false\n`
    const group = `${readFileSync('/etc/group', 'utf8')}_openbgpd:x:64179:\n`
    rmSync(join(folder, 'bgpd.sock'), { force: true })
    return [
      ...words('unshare --mount sh -ec'),
      'mount --bind "$1" /etc/passwd; mount --bind "$2" /etc/group; shift 2; exec "$@"',
      'sh',
      written(folder, 'passwd', passwd, 0o644),
      written(folder, 'group', group, 0o644),
      ...(await openbgpdProgram()),
      '-d',
      '-f',
      written(folder, 'bgpd.conf', openbgpdConfig(scene, join(folder, 'bgpd.sock'))),
    ]
  },
  settleSeconds: shortly,
}

async function openbgpdProgram(): Promise<[string, ...string[]]> {
  const unpacked = await unpackTool('openbgpd', () => {})
  const libraries = join(await unpackTool('libevent-2.1-7', () => {}), 'usr/lib')
  const path = join(libraries, readdirSync(libraries)[0]!)
  return ['env', `LD_LIBRARY_PATH=${path}`, join(unpacked, 'usr/sbin/bgpd')]
}

const gobgp: Daemon = {
  name: 'gobgpd',
  version: async () => (hasProgram('gobgpd') ? said('gobgpd', '--version').replace('gobgpd version', 'GoBGP') : ''),
  command: async (scene, folder) => [
    ...words('gobgpd -l warn --api-hosts 127.0.0.1:50551 --pprof-disable -f'),
    written(folder, 'gobgpd.toml', gobgpConfig(scene)),
  ],
  settleSeconds: shortly,
}

/** No daemon: what Node itself costs. */
export const floor: Daemon = {
  name: 'node floor',
  version: async () => `Node ${process.version}`,
  command: async (scene, folder) => {
    // A bundle as ours is: reading TypeScript costs memory.
    const bundle = join(folder, 'floor.mjs')
    await build({
      entryPoints: [join(here, 'floor.ts')],
      outfile: bundle,
      bundle: true,
      format: 'esm',
      platform: 'node',
    })
    return [process.execPath, bundle, daemonAddress(scene.family)]
  },
  settleSeconds: shortly,
}

export const ours = manx
export const peers: readonly Daemon[] = [bird, frr, openbgpd, gobgp]

/** Our daemon from its sources, with flags for Node: its profile names files and not a bundle. */
export function ourSources(nodeFlags: readonly string[]): Daemon {
  return {
    ...manx,
    command: async (scene, folder) => {
      const [, ...args] = await manx.command(scene, folder)
      return [process.execPath, ...nodeFlags, join(root, 'src/app/speaker/daemon.ts'), ...args]
    },
  }
}

/** Where 10/8 and fd10::/16 are local: any address of theirs can be a neighbour's, and nothing leaves. */
export class Ground {
  readonly name = `mx-bench-${process.pid}`
  readonly folder: string
  readonly #children = new Set<ChildProcess>()

  constructor(folder: string) {
    this.folder = folder
    try {
      this.#make()
    } catch (error) {
      this.leave()
      throw error
    }
  }

  #make(): void {
    const ip = (...args: readonly string[]) => execFileSync('ip', args, { encoding: 'utf8' })
    ip('netns', 'add', this.name)
    const inside = (...args: readonly string[]) => ip('-n', this.name, ...args)
    inside('link', 'set', 'lo', 'up')
    // Kernels without dummy links have pairs.
    inside('link', 'add', 'dum0', 'type', 'veth', 'peer', 'name', 'dum1')
    // No link-local addresses: their routes would come in seconds later, and be counted as learned ones.
    for (const one of ['dum0', 'dum1']) inside('link', 'set', one, 'addrgenmode', 'none')
    inside('link', 'set', 'dum1', 'up')
    inside('address', 'add', `${daemonAddress(4)}/8`, 'dev', 'dum0')
    inside('address', 'add', `${daemonAddress(6)}/16`, 'dev', 'dum0', 'nodad')
    for (const family of [4, 6] as const)
      inside('address', 'add', gateway(family).own, 'dev', 'dum0', ...(family === 6 ? ['nodad'] : []))
    inside('link', 'set', 'dum0', 'up')
    inside('route', 'add', 'local', '10.0.0.0/8', 'dev', 'lo')
    inside('-6', 'route', 'add', 'local', 'fd10::/16', 'dev', 'lo')
  }

  start(argv: readonly string[], environment: Readonly<Record<string, string>> = {}): ChildProcess {
    const log = openSync(join(this.folder, 'daemon.log'), 'w')
    const [command, ...args] = this.#inside(argv)
    const child = spawn(command!, args, { stdio: ['ignore', log, log], env: { ...process.env, ...environment } })
    closeSync(log)
    return this.#own(child)
  }

  /** What it prints, line by line, until it ends or the time is over. */
  async lines(argv: readonly string[], limitSeconds: number): Promise<string[]> {
    const [command, ...args] = this.#inside(argv)
    const child = this.#own(spawn(command!, args, { stdio: ['ignore', 'pipe', 'pipe'] }))
    let [text, errors] = ['', '']
    child.stdout!.setEncoding('utf8').on('data', (more: string) => (text += more))
    child.stderr!.setEncoding('utf8').on('data', (more: string) => (errors += more))
    const timer = setTimeout(() => child.kill('SIGKILL'), limitSeconds * 1000)
    await new Promise(resolve => child.once('close', resolve))
    clearTimeout(timer)
    const lines = text.split('\n').filter(Boolean)
    if (lines.length === 0)
      throw new Error(`${errors.trim().split('\n').slice(-3).join(' | ')}; the daemon says: ${this.lastWords()}`)
    return lines
  }

  lastWords(): string {
    return readFileSync(join(this.folder, 'daemon.log'), 'utf8').trim().split('\n').slice(-3).join(' | ')
  }

  /** The namespace's own sockets are free again when it resolves. */
  async stop(child: ChildProcess): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise(resolve => child.once('exit', resolve))
    child.kill('SIGTERM')
    const timer = setTimeout(() => child.kill('SIGKILL'), 5000)
    await gone
    clearTimeout(timer)
  }

  leave(): void {
    for (const child of this.#children) child.kill('SIGKILL')
    spawnSync('ip', ['netns', 'del', this.name])
    rmSync(this.folder, { recursive: true, force: true })
  }

  #inside(argv: readonly string[]): readonly string[] {
    // A thousand sessions are more than the usual 1,024 files. Both programs exec: the pid is that of what runs.
    return ['nsenter', `--net=/var/run/netns/${this.name}`, 'prlimit', '--nofile=20000:20000', ...argv]
  }

  #own(child: ChildProcess): ChildProcess {
    this.#children.add(child)
    child.once('exit', () => this.#children.delete(child))
    return child
  }
}

/** A command line without quotes. */
function words(line: string): string[] {
  return line.split(' ')
}

function written(folder: string, name: string, text: string, mode = 0o600): string {
  const path = join(folder, name)
  writeFileSync(path, text, { mode })
  return path
}

/** The first line of all that a command says, whatever its exit status. */
function said(...argv: readonly string[]): string {
  const { stdout, stderr } = spawnSync(argv[0]!, argv.slice(1), { encoding: 'utf8' })
  return `${stdout ?? ''}${stderr ?? ''}`.trim().split('\n')[0]!
}
