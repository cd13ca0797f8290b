/**
 * This host's kernel: the `Kernel` port over netlink, /proc/sys and the tools iptables and ipset.
 *
 * It acts on the network namespace the process is in when `createKernel` runs, and keeps acting on it. Requests of each
 * kind run one at a time, except pods, which are attached side by side. `close` ends the sockets; what is in the kernel
 * stands. Which iptables engine is written to is decided once, by the first use.
 */

import { stat } from 'node:fs/promises'
import type { Family, Ip } from '../../lib/ip.ts'
import type {
  AddressChange,
  AttachedPod,
  Kernel,
  KernelChange,
  KernelRoute,
  Link,
  NeighbourChange,
  NeighbourEntry,
  Outcome,
  PodLink,
  RouteChange,
  SetState,
  Stop,
  TunnelDevice,
} from '../../lib/ports.ts'
import { SystemError } from '../ffi.ts'
import { forgetConnections } from './conntrack.ts'
import { changeAddresses, decodeAddress, decodeLink, ensureTunnel, readLinks, removeTunnel } from './links.ts'
import { Rtm, type Message } from './message.ts'
import { changeNeighbours, readNeighbours } from './neighbours.ts'
import { kernelError, NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkMonitor, NetlinkSocket } from './netlink.ts'
import { attachPod, detachPod } from './pod.ts'
import { changeRoutes, decodeRoute, readRoutes } from './routes.ts'
import { changeSets, readSets } from './sets.ts'
import { readSysctl, writeSysctl } from './sysctl.ts'
import { TableReads } from './table-reads.ts'
import { chooseBackend, restoreTable, type Backend, type Backends } from './tables.ts'

export type { Backend, Backends } from './tables.ts'

export interface KernelOptions {
  /** iptables engine; default `auto`. */
  readonly tableBackend?: Backend | 'auto'
  /** How long to wait at a time for the lock of the legacy iptables tools; default 2. */
  readonly lockSeconds?: number
}

const AF_BRIDGE = 7

/** Link, IPv4 address, IPv4 route, IPv6 address, IPv6 route. */
const watchedGroups = 0x1 | 0x10 | 0x40 | 0x100 | 0x400

/** Rules of nftables, and of the iptables that writes through it (linux/netfilter/nfnetlink.h, nf_tables.h). */
const ruleGroups = 0x40
const NFT_NEWGEN = (10 << 8) | 15

/** Opens the netlink socket at once: without one there is no agent. */
export async function createKernel(options: KernelOptions = {}): Promise<LinuxKernel> {
  // The threads of Node's pool inherit the namespace of whoever first makes them work: that must be this one, not a
  // pod's.
  await stat('/proc/self')
  try {
    return new LinuxKernel(options)
  } catch (error) {
    if (error instanceof SystemError) throw kernelError(error.code, 'open a netlink socket', undefined, error)
    throw error
  }
}

export class LinuxKernel implements Kernel {
  readonly #wish: Backend | 'auto'
  readonly #lockSeconds: number
  /** Routes have a socket of their own, so that a long batch does not hold up a pod. */
  readonly #forRoutes: NetlinkSocket
  readonly #forLinks: NetlinkSocket
  /** Opened when it is first needed. */
  #forConnections: NetlinkSocket | undefined
  readonly #watchers = new Set<(change: KernelChange) => void>()
  #monitor: NetlinkMonitor | undefined
  #ruleMonitor: NetlinkMonitor | undefined
  #backends: Promise<Backends> | undefined
  readonly #tableReads = new TableReads()

  constructor(options: KernelOptions) {
    this.#wish = options.tableBackend ?? 'auto'
    this.#lockSeconds = options.lockSeconds ?? 2
    this.#forRoutes = new NetlinkSocket(NETLINK_ROUTE)
    this.#forLinks = new NetlinkSocket(NETLINK_ROUTE)
  }

  async links(): Promise<Link[]> {
    const links = await readLinks(this.#forLinks)
    return links.map(({ peer: _peer, peerNamespace: _namespace, ...link }) => link)
  }

  attachPod(link: PodLink): Promise<AttachedPod> {
    return attachPod(this.#forLinks, link)
  }

  detachPod(link: { readonly outside: string; readonly netns?: string; readonly inside?: string }): Promise<void> {
    return detachPod(this.#forLinks, link)
  }

  routes(family: Family): Promise<KernelRoute[]> {
    return readRoutes(this.#forRoutes, family)
  }

  changeRoutes(changes: readonly RouteChange[]): Promise<Outcome[]> {
    return changeRoutes(this.#forRoutes, changes)
  }

  ensureTunnel(device: TunnelDevice): Promise<void> {
    return ensureTunnel(this.#forLinks, device)
  }

  removeTunnel(name: string): Promise<void> {
    return removeTunnel(this.#forLinks, name)
  }

  changeAddresses(changes: readonly AddressChange[]): Promise<Outcome[]> {
    return changeAddresses(this.#forLinks, changes)
  }

  async neighbours(link: number): Promise<NeighbourEntry[]> {
    const neighbours = await readNeighbours(this.#forLinks, 'neighbour', link)
    return [...neighbours, ...(await readNeighbours(this.#forLinks, 'forwarding', link))]
  }

  changeNeighbours(changes: readonly NeighbourChange[]): Promise<Outcome[]> {
    return changeNeighbours(this.#forLinks, changes)
  }

  sysctl(path: string): Promise<string | undefined> {
    return promised(() => readSysctl(path))
  }

  setSysctl(path: string, value: string): Promise<void> {
    return promised(() => writeSysctl(path, value))
  }

  /** Which iptables engine is written to, why, and whether the other one holds rules as well. */
  tableBackends(): Promise<Backends> {
    return (this.#backends ??= chooseBackend(this.#wish).catch((error: unknown) => {
      // Asked again next time: the tools may be installed meanwhile.
      this.#backends = undefined
      throw error
    }))
  }

  async saveTable(family: Family, table: string, options?: { readonly counters?: boolean }): Promise<string> {
    return this.#tableReads.save((await this.tableBackends()).chosen, family, table, options?.counters ?? false)
  }

  async restoreTable(family: Family, script: string): Promise<void> {
    await restoreTable((await this.tableBackends()).chosen, family, script, this.#lockSeconds)
  }

  readSets(family: Family): Promise<SetState[]> {
    return readSets(family)
  }

  changeSets(_family: Family, script: string): Promise<void> {
    return changeSets(script)
  }

  async forgetConnections(ip: Ip): Promise<number> {
    return forgetConnections((this.#forConnections ??= new NetlinkSocket(NETLINK_NETFILTER)), ip)
  }

  watch(on: (change: KernelChange) => void): Stop {
    // A wrapper of its own, so that the same function may watch twice.
    const watcher = (change: KernelChange): void => on(change)
    this.#watchers.add(watcher)
    this.#monitor ??= this.#watchNetwork()
    this.#ruleMonitor ??= this.#watchRules()
    return () => {
      this.#watchers.delete(watcher)
      if (this.#watchers.size === 0) this.#stopWatching()
    }
  }

  #watchNetwork(): NetlinkMonitor {
    const monitor = new NetlinkMonitor(
      NETLINK_ROUTE,
      watchedGroups,
      message => this.#tell(changeOf(message)),
      () => this.#tell({ kind: 'overrun' }),
    )
    const spare = (port: number): void => monitor.spare(port, [Rtm.newRoute, Rtm.delRoute])
    spare(this.#forRoutes.port)
    this.#forRoutes.onPort = spare
    return monitor
  }

  /**
   * Each commit ends with a message of its own; before it comes one per rule, which nobody wants: of a first sync more than
   * the socket holds. Without the right to listen there are no such events.
   */
  #watchRules(): NetlinkMonitor | undefined {
    const tell = (): void => this.#tell({ kind: 'rules' })
    try {
      return new NetlinkMonitor(NETLINK_NETFILTER, ruleGroups, tell, tell, NFT_NEWGEN)
    } catch (error) {
      if (error instanceof SystemError) return undefined
      throw error
    }
  }

  #stopWatching(): void {
    this.#forRoutes.onPort = undefined
    this.#monitor?.close()
    this.#monitor = undefined
    this.#ruleMonitor?.close()
    this.#ruleMonitor = undefined
  }

  /** Ends the sockets. Calls under way fail. */
  close(): void {
    this.#watchers.clear()
    this.#stopWatching()
    this.#forRoutes.close()
    this.#forLinks.close()
    this.#forConnections?.close()
  }

  #tell(change: KernelChange | undefined): void {
    if (change) for (const watcher of this.#watchers) watcher(change)
  }
}

function changeOf(message: Message): KernelChange | undefined {
  switch (message.type) {
    case Rtm.newLink:
    case Rtm.delLink: {
      const link = decodeLink(message)
      if (!link) return undefined
      // A bridge reports a port that leaves it as a deleted link of its own family; the device is still there.
      const gone = message.type === Rtm.delLink && message.body[0] !== AF_BRIDGE
      return { kind: 'link', name: link.name, index: link.index, gone }
    }
    case Rtm.newAddress:
    case Rtm.delAddress: {
      const found = decodeAddress(message)
      return found && { kind: 'address', index: found.index }
    }
    case Rtm.newRoute:
    case Rtm.delRoute: {
      const route = decodeRoute(message)
      if (!route) return undefined
      const { prefix, protocol } = route
      return { kind: 'route', family: prefix.family, protocol, prefix, gone: message.type === Rtm.delRoute }
    }
    default:
      return undefined
  }
}

/** Throwing becomes rejecting. */
async function promised<T>(run: () => T): Promise<T> {
  return run()
}
