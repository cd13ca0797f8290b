/**
 * This node's tunnel addresses: one per tunnel that some pool asks for, from IPAM, published in the Node resource.
 *
 * | tunnel     | asked for by              | field of the Node                |
 * |------------|---------------------------|----------------------------------|
 * | `ipip`     | IPv4 pools with ipipMode  | `spec.bgp.ipv4IPIPTunnelAddr`    |
 * | `vxlan`    | IPv4 pools with vxlanMode | `spec.ipv4VXLANTunnelAddr`       |
 * | `vxlan-v6` | IPv6 pools with vxlanMode | `spec.ipv6VXLANTunnelAddr`       |
 *
 * The address comes from a pool that asks for the tunnel, selects this node and allows the use `Tunnel`. One that the Node
 * names is kept while IPAM says that it is ours and such a pool contains it, be the pool disabled meanwhile.
 *
 * Publishing is the sign for other hosts to send through the tunnel, so it waits until felix says that this host takes
 * such packets. The other way round the field goes first and the address after it, so that nobody else gets an address
 * that hosts still know as ours. A crash between the two leaves an address under our handle, which the next run releases
 * before it asks for another. Contract §3.5.
 */

import { hasCode, reasonOf } from '../lib/errors.ts'
import { Ip, Prefix, type Family } from '../lib/ip.ts'
import type { Clock, Datastore, Log, Revision, Timer } from '../lib/ports.ts'
import { Coalesced } from '../lib/serial.ts'
import type { Ipam } from '../ipam/index.ts'
import {
  encodeResource,
  parseSelector,
  resourceKey,
  tunnelAddressType,
  tunnelHandle,
  type IPPool,
  type Node,
  type Update,
} from '../model/index.ts'
import { readNode } from './node.ts'

export interface TunnelDeps {
  readonly store: Datastore
  readonly ipam: Pick<Ipam, 'assign' | 'releaseByHandle' | 'lookup'>
  readonly clock: Clock
  readonly log: Log
  /** Felix has the device and its rules in the kernel. */
  readonly takesTunnel: (kind: 'vxlan' | 'ipip', family: Family) => boolean
  /** The store is locked for maintenance of addresses. */
  readonly isLocked: () => boolean
}

interface Tunnel {
  readonly name: 'ipip' | 'vxlan' | 'vxlan-v6'
  readonly kind: 'vxlan' | 'ipip'
  readonly family: Family
  read(node: Node): string | undefined
  write(node: Node, address: string | undefined): Node
}

/** Fields that are not set must not be there at all, and an empty `bgp` is not valid. */
function without<T extends object>(of: T | undefined, key: keyof T): T {
  return Object.fromEntries(Object.entries(of ?? {}).filter(([name]) => name !== key)) as T
}

const vxlan = (name: 'vxlan' | 'vxlan-v6', family: Family): Tunnel => {
  const field = family === 4 ? 'ipv4VXLANTunnelAddr' : 'ipv6VXLANTunnelAddr'
  return {
    name,
    kind: 'vxlan',
    family,
    read: node => node.spec[field],
    write: (node, address) => ({
      ...node,
      spec: { ...without(node.spec, field), ...(address === undefined ? {} : { [field]: address }) },
    }),
  }
}

const tunnels: readonly Tunnel[] = [
  {
    name: 'ipip',
    kind: 'ipip',
    family: 4,
    read: node => node.spec.bgp?.ipv4IPIPTunnelAddr,
    write(node, address) {
      const others = without(node.spec.bgp, 'ipv4IPIPTunnelAddr')
      const bgp = address === undefined ? others : { ...others, ipv4IPIPTunnelAddr: address }
      const rest = without(node.spec, 'bgp')
      return { ...node, spec: Object.keys(bgp).length > 0 ? { ...rest, bgp } : rest }
    },
  },
  vxlan('vxlan', 4),
  vxlan('vxlan-v6', 6),
]

/** While the device is being made: it takes a pass of felix. */
const devicePauseMs = 20
const longestPauseMs = 5_000
const writeTries = 20

export class TunnelAddresses {
  readonly #node: string
  readonly #deps: TunnelDeps
  readonly #pools = new Map<string, IPPool>()
  readonly #round = new Coalesced(() => this.#run())
  /** What was last said about each tunnel, so that it is said once. */
  readonly #said = new Map<string, string>()
  /** Handles of ours that hold an address, as the feed tells it. */
  readonly #handles = new Set<string>()
  #own: Node | undefined
  #ownRevision: Revision = 0
  #synced = false
  #stopped = false
  #timer: Timer | undefined
  #pauseMs = devicePauseMs

  constructor(options: { readonly node: string }, deps: TunnelDeps) {
    this.#node = options.node
    this.#deps = deps
  }

  apply(batch: readonly Update[]): void {
    let concerned = false
    for (const update of batch) {
      if (update.kind === 'IPPool') {
        if (update.value) this.#pools.set(update.name, update.value)
        else this.#pools.delete(update.name)
        concerned = true
      } else if (update.kind === 'Node' && update.name === this.#node) {
        concerned = this.#learnOwn(update.value, update.revision) || concerned
      } else if (update.kind === 'IPAMHandle') {
        concerned = this.#learnHandle(update.id, update.value !== undefined && !update.value.deleted) || concerned
      } else if (update.kind === 'ClusterInformation') concerned = true
    }
    if (!concerned) return
    this.#pauseMs = devicePauseMs
    this.#wake()
  }

  /** What we wrote ourselves is known before the feed tells it, and the feed may still tell what was before. */
  #learnOwn(node: Node | undefined, revision: Revision): boolean {
    if (revision < this.#ownRevision) return false
    this.#own = node
    this.#ownRevision = revision
    return true
  }

  #learnHandle(id: string, exists: boolean): boolean {
    if (!tunnels.some(({ name }) => tunnelHandle(name, this.#node) === id)) return false
    if (exists) this.#handles.add(id)
    else this.#handles.delete(id)
    return true
  }

  inSync(): void {
    this.#synced = true
    this.#wake()
  }

  stop(): void {
    this.#stopped = true
    this.#timer?.cancel()
  }

  #wake(): void {
    if (!this.#synced || this.#stopped) return
    this.#timer?.cancel()
    this.#timer = undefined
    void this.#round.request()
  }

  /** Looks at each tunnel; what is not done yet is looked at again. Throws nothing. */
  async #run(): Promise<void> {
    const { clock, log } = this.#deps
    let isOpen = false
    for (const tunnel of tunnels) {
      if (this.#stopped || !this.#own || this.#deps.isLocked()) return
      try {
        isOpen = !(await this.#settle(tunnel, this.#own)) || isOpen
      } catch (error) {
        isOpen = true
        this.#pauseMs = Math.max(this.#pauseMs, 500)
        this.#say(tunnel, `no address for the ${tunnel.name} tunnel: ${reasonOf(error)}`, what => log.warn(what))
      }
    }
    if (!isOpen || this.#stopped) return
    this.#timer?.cancel()
    this.#timer = clock.after(this.#pauseMs, () => this.#wake())
    this.#pauseMs = Math.min(longestPauseMs, this.#pauseMs * 2)
  }

  /** True when there is nothing left to do for this tunnel. */
  async #settle(tunnel: Tunnel, node: Node): Promise<boolean> {
    const current = tunnel.read(node)
    const asking = [...this.#pools.values()].filter(pool => asksFor(pool, tunnel))
    const candidates = asking.filter(pool => isCandidate(pool, node))
    if (current !== undefined && (await this.#isGood(tunnel, current, asking))) return true
    if (candidates.length === 0) return this.#giveUp(tunnel, current)
    if (!this.#deps.takesTunnel(tunnel.kind, tunnel.family)) return false
    return this.#obtain(tunnel, candidates)
  }

  async #isGood(tunnel: Tunnel, text: string, asking: readonly IPPool[]): Promise<boolean> {
    const ip = Ip.parse(text.replace(/\/\d+$/, ''))
    if (!ip || !asking.some(({ spec }) => Prefix.parse(spec.cidr)?.contains(ip))) return false
    const info = await this.#deps.ipam.lookup(ip)
    return info?.allocation?.handle === tunnelHandle(tunnel.name, this.#node)
  }

  async #giveUp(tunnel: Tunnel, current: string | undefined): Promise<boolean> {
    const handle = tunnelHandle(tunnel.name, this.#node)
    if (current === undefined && !this.#handles.has(handle)) return true
    if (current !== undefined && !(await this.#write(tunnel, undefined))) return false
    const { released } = await this.#deps.ipam.releaseByHandle(handle)
    const what = `no pool asks for the ${tunnel.name} tunnel: address ${released.join(', ')} is given back`
    if (released.length > 0) this.#say(tunnel, what, text => this.#deps.log.info(text))
    return true
  }

  async #obtain(tunnel: Tunnel, candidates: readonly IPPool[]): Promise<boolean> {
    const { ipam, log } = this.#deps
    const handle = tunnelHandle(tunnel.name, this.#node)
    // An address that the Node does not name, or that is no good any more.
    await ipam.releaseByHandle(handle)
    const names = candidates.map(({ metadata }) => metadata.name).sort()
    const { ips4, ips6 } = await ipam.assign({
      handle,
      attributes: { node: this.#node, type: tunnelAddressType[tunnel.name] },
      use: 'Tunnel',
      ...(tunnel.family === 4 ? { num4: 1, pools4: names } : { num6: 1, pools6: names }),
    })
    const ip = [...ips4, ...ips6][0]
    if (!ip || !(await this.#write(tunnel, ip.key))) return false
    this.#say(tunnel, `address of the ${tunnel.name} tunnel: ${ip.key}`, text => log.info(text))
    return true
  }

  /** Into the Node as it is in the store now; false: it is gone, or others change it without end. */
  async #write(tunnel: Tunnel, address: string | undefined): Promise<boolean> {
    const { store } = this.#deps
    const key = resourceKey('Node', this.#node)
    for (let attempt = 0; attempt < writeTries; attempt++) {
      const { node, modRevision } = await readNode(store, this.#node)
      if (!node) return false
      if (tunnel.read(node) === address) {
        this.#learnOwn(node, modRevision)
        return true
      }
      const next = tunnel.write(node, address)
      try {
        const done = await store.commit([{ key, modRevision }], [{ key, value: encodeResource(next) }])
        if (!done.ok) continue
        this.#learnOwn(next, done.revision)
        return true
      } catch (error) {
        // Whether it happened is seen by reading again.
        if (!hasCode(error, 'unknown-outcome')) throw error
      }
    }
    return false
  }

  #say(tunnel: Tunnel, what: string, say: (what: string) => void): void {
    if (this.#said.get(tunnel.name) === what) return
    this.#said.set(tunnel.name, what)
    say(what)
  }
}

function asksFor({ spec }: IPPool, tunnel: Tunnel): boolean {
  const mode = tunnel.kind === 'vxlan' ? spec.vxlanMode : spec.ipipMode
  return (mode === 'Always' || mode === 'CrossSubnet') && Prefix.parse(spec.cidr)?.family === tunnel.family
}

/** A pool that may give this node a tunnel address. */
function isCandidate({ spec }: IPPool, node: Node): boolean {
  const selector = parseSelector(spec.nodeSelector ?? '')
  const uses = spec.allowedUses?.length ? spec.allowedUses : ['Tunnel']
  return (
    spec.disabled !== true &&
    uses.includes('Tunnel') &&
    selector.ok &&
    selector.selector.matches(node.metadata.labels ?? {})
  )
}
