/**
 * Our BMP stream as pmacct's collector reads it (pmbmpd, unpacked and not installed: it would start, and bring databases
 * along): sessions of both families with the router of the lane, their routes, their ends, and everything anew for a
 * collector that was away.
 */

import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { PeerSettings } from '../../src/app/speaker/settings.ts'
import { unpackTool } from '../../scripts/tools.mjs'
import { type Lab, until } from '../fv/bgp-lab.ts'
import { Daemon } from './router.ts'
import { check, exchanged, type Meeting, same, type Stage, theirPrefix } from './stage.ts'
import { link, ourAs, peerDefaults, theirAs } from './us.ts'

/** pmacct and what hosts may lack of its libraries. */
export const collectorPackages = [
  'pmacct',
  'libmaxminddb0',
  'libmariadb3',
  'librabbitmq4',
  'libzmq5',
  'librdkafka1',
  'libpgm-5.3-0',
  'libnorm1',
]

const port = 11_790

/** A line of pmbmpd's log, as far as it is looked at. */
interface Said {
  readonly event_type: string
  readonly bmp_msg_type?: string
  readonly log_type?: string
  readonly bmp_init_info_sysname?: string
  readonly peer_ip?: string
  readonly peer_asn?: number
  readonly ip_prefix?: string
  readonly bgp_nexthop?: string
  readonly as_path?: string
  readonly is_post?: number
  readonly reason_type?: number
  readonly local_ip?: string
}

const theirs: readonly string[] = Object.values(theirPrefix)

class Collector {
  readonly #daemon: Daemon
  readonly #lab: Lab
  readonly #log: string
  readonly #argv: readonly string[]

  private constructor(lab: Lab, roots: readonly string[]) {
    this.#lab = lab
    this.#daemon = new Daemon(lab)
    this.#log = join(lab.folder, 'bmp.json')
    const libraries = roots.flatMap(root => {
      const folder = join(root, 'usr/lib')
      return existsSync(folder) ? [folder, ...readdirSync(folder).map(name => join(folder, name))] : []
    })
    const settings = [
      'daemonize: false',
      `bmp_daemon_ip: ${link.theirs[4]}`,
      `bmp_daemon_port: ${port}`,
      `bmp_daemon_msglog_file: ${this.#log}`,
      'bmp_daemon_msglog_output: json',
    ]
    const path = lab.file('pmbmpd.conf', `${settings.join('\n')}\n`)
    this.#argv = ['env', `LD_LIBRARY_PATH=${libraries.join(':')}`, join(roots[0]!, 'usr/sbin/pmbmpd'), '-f', path]
  }

  static async prepare(lab: Lab): Promise<Collector> {
    const roots: string[] = []
    for (const name of collectorPackages) roots.push(await unpackTool(name, () => {}))
    return new Collector(lab, roots)
  }

  async start(): Promise<void> {
    rmSync(this.#log, { force: true })
    const [command = '', ...args] = this.#argv
    this.#daemon.run(command, ...args)
    await this.#daemon.answers('pmbmpd', () => this.#lab.run('ss', '-Hltn', `sport = :${port}`).trim() !== '')
  }

  async stop(): Promise<void> {
    await this.#daemon.kill()
  }

  /** What it has understood so far; its last line may be half written. */
  get said(): Said[] {
    if (!existsSync(this.#log)) return []
    const lines = readFileSync(this.#log, 'utf8').split('\n').slice(0, -1)
    return lines.map(line => JSON.parse(line) as Said)
  }

  /** The router's prefixes by peer, after all that was said. FRR sends ours back too, and a collector hears of that. */
  get table(): Record<string, string[]> {
    const peers: Record<string, Set<string>> = {}
    for (const { bmp_msg_type: kind, log_type: change, peer_ip: peer = '', ip_prefix: prefix } of this.said) {
      if (kind === 'peer_up') peers[peer] = new Set()
      if (kind === 'peer_down') delete peers[peer]
      if (kind !== 'route_monitor' || prefix === undefined || !theirs.includes(prefix)) continue
      if (change === 'withdraw') peers[peer]?.delete(prefix)
      else peers[peer]?.add(prefix)
    }
    return Object.fromEntries(
      Object.keys(peers)
        .toSorted()
        .map(peer => [peer, [...peers[peer]!].toSorted()]),
    )
  }

  async has(wanted: Record<string, string[]>): Promise<void> {
    await until('pmbmpd', () => equal(this.table, wanted), 15_000).catch(() =>
      same('what pmbmpd knows', this.table, wanted),
    )
  }
}

export async function bmp(stage: Stage): Promise<string> {
  const collector = await Collector.prepare(stage.lab)
  stage.add(collector)
  await collector.start()
  // A session for each family; a router without a table of its own announces everything on every one, so it has one.
  const single = !stage.router.forwards
  const station = { address: link.theirs[4], port, name: 'manx-under-test', statisticsSeconds: 1, locRib: true }
  const six: PeerSettings = { ...peerDefaults, address: link.theirs[6], as: theirAs, source: link.ours[6] }
  const how: Meeting = {
    families: single ? [4, 6] : [4],
    neighbors: single ? [] : [{ address: link.ours[6], local: link.theirs[6], as: ourAs, families: [6] }],
    routes: [{ prefix: theirPrefix[4] }, { prefix: theirPrefix[6] }],
    settings: { bmp: [station], peers: single ? [] : [six] },
  }
  const us = await stage.meet(how)
  await exchanged(stage, us, how)
  // What is chosen is a peer of its own, without an address (RFC 9069).
  const chosen = '0.0.0.0'
  const peers = single
    ? { [link.theirs[4]]: [theirPrefix[4], theirPrefix[6]] }
    : { [link.theirs[4]]: [theirPrefix[4]], [link.theirs[6]]: [theirPrefix[6]] }
  const all = { [chosen]: [theirPrefix[4], theirPrefix[6]], ...peers }
  await collector.has(all)
  same('who we are', collector.said.find(one => one.bmp_msg_type === 'init')?.bmp_init_info_sysname, 'manx-under-test')
  for (const family of [4, 6] as const) {
    const route = collector.said.find(one => one.ip_prefix === theirPrefix[family])!
    same('AS path', route.as_path, String(theirAs))
    same('before policy', route.is_post ?? 0, 0)
  }
  await until('pmbmpd has statistics', () => collector.said.some(one => one.bmp_msg_type === 'stats'), 10_000)
  // A collector that was away hears everything again.
  await collector.stop()
  await until('we miss it', () => us.speaker.snapshot().stations[0]?.connected === false, 10_000)
  await collector.start()
  await collector.has(all)
  await stage.router.kill()
  // Routes may outlive their session (RFC 4724): what is still used is still told.
  await until('we miss the router', () => !us.up, 15_000)
  await collector.has({ [chosen]: [theirPrefix[4], theirPrefix[6]].filter(prefix => us.fib.has(prefix)) })
  const complaints = stage.lab
    .lastLines(200)
    .split(' | ')
    .filter(line => /(WARN|ERROR) \(/.test(line))
  check(complaints.length === 0, `pmbmpd says: ${complaints.slice(0, 3).join('; ')}`)
  return `pmacct's pmbmpd followed both families, what is chosen, statistics, its own restart, and the end of the sessions`
}

function equal(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}
