/**
 * Who speaks for an address, as far as the store tells: endpoints that carry it, nodes whose tunnels use it.
 *
 * It errs towards keeping (invariant 3.8 number 10): an allocation is judged at all only where it is a container's or a
 * pod's, made by a CNI plugin. Tunnel addresses are valid while their node exists; addresses of virtual machines, of load
 * balancers and of owners nobody here knows are never doubted. What only a host can know (its interfaces) is added by
 * its agent.
 */

import { Ip, Prefix } from '../lib/ip.ts'
import type { Node, Update, WorkloadEndpoint } from '../model/index.ts'
import { tunnelAddressType } from '../model/index.ts'
import type { Allocation } from './block.ts'

interface Endpoint {
  readonly name: string
  readonly node: string | undefined
  readonly container: string | undefined
  readonly pod: string | undefined
  readonly addresses: readonly string[]
}

const tunnelTypes: ReadonlySet<string> = new Set(Object.values(tunnelAddressType))
/** Attributes of virtual machines, whose addresses outlive their pods. */
const machineAttributes = ['vmi-name', 'vmi-uid', 'vm-uid']

export class Workloads {
  readonly #endpoints = new Map<string, Endpoint>()
  /** Of each address, and of each container or pod, the endpoints. */
  readonly #byAddress = new Map<string, Set<Endpoint>>()
  readonly #byIdentity = new Map<string, Set<Endpoint>>()
  /** Of each node its tunnel addresses. */
  readonly #nodes = new Map<string, readonly string[]>()

  apply(update: Update): void {
    if (update.kind === 'Node') {
      if (update.value) this.#nodes.set(update.name, tunnelAddressesOf(update.value as Node))
      else this.#nodes.delete(update.name)
    } else if (update.kind === 'WorkloadEndpoint')
      this.#set(`${update.namespace}/${update.name}`, update.value as WorkloadEndpoint | undefined)
  }

  /** Addresses in use and by whom, workloads and tunnels apart: what has to be allocated. */
  inUse(): { readonly workloads: ReadonlyMap<string, string>; readonly tunnels: ReadonlyMap<string, string> } {
    const workloads = [...this.#byAddress].map(([ip, [holder]]) => [ip, `endpoint ${holder!.name}`] as const)
    const tunnels = [...this.#nodes].flatMap(([node, ips]) => ips.map(ip => [ip, `tunnel of ${node}`] as const))
    return { workloads: new Map(workloads), tunnels: new Map(tunnels) }
  }

  nodeExists(node: string): boolean {
    return this.#nodes.has(node)
  }

  /** Why the address is in use or may be; undefined: nothing in the store speaks for it. */
  evidence(allocation: Allocation): string | undefined {
    const { ip, handle = '', attributes } = allocation
    const { node, type = '' } = attributes
    if (tunnelTypes.has(type))
      return node !== undefined && this.#nodes.has(node) ? `tunnel address of ${node}` : undefined
    const [holder] = this.#byAddress.get(ip.key) ?? []
    if (holder) return `endpoint ${holder.name}`
    const isWorkload = attributes['pod'] !== undefined || handle.includes('.')
    if (!isWorkload || machineAttributes.some(name => attributes[name] !== undefined))
      return 'no owner of a kind that is judged here'
    const waiting = this.#endpointsOf(allocation).find(endpoint => endpoint.addresses.length === 0)
    return waiting && `endpoint ${waiting.name}, which has no address yet`
  }

  /** For an address that nothing speaks for: what was found instead. */
  why(allocation: Allocation): string {
    const { node, type = '' } = allocation.attributes
    if (node !== undefined && !this.#nodes.has(node)) return `node ${node} is gone`
    if (tunnelTypes.has(type)) return 'tunnel of no node'
    const others = this.#endpointsOf(allocation).flatMap(({ addresses }) => addresses)
    return others.length > 0 ? `endpoint holds ${others.join(', ')} instead` : 'no endpoint'
  }

  /** The endpoints of the container or pod that an address was given to. */
  #endpointsOf({ handle = '', attributes }: Allocation): Endpoint[] {
    const { node, pod, namespace } = attributes
    const container = handle.slice(handle.indexOf('.') + 1)
    return [
      ...(this.#byIdentity.get(`container ${container}`) ?? []),
      ...(pod === undefined ? [] : (this.#byIdentity.get(podIdentity(namespace, pod)) ?? [])),
    ].filter(endpoint => node === undefined || endpoint.node === node)
  }

  #set(name: string, value: WorkloadEndpoint | undefined): void {
    const before = this.#endpoints.get(name)
    if (before) {
      this.#endpoints.delete(name)
      for (const address of before.addresses) remove(this.#byAddress, address, before)
      for (const identity of identitiesOf(before)) remove(this.#byIdentity, identity, before)
    }
    if (!value) return
    const { spec } = value
    const endpoint: Endpoint = {
      name: spec.pod === undefined ? name : `${value.metadata.namespace}/${spec.pod}`,
      node: spec.node,
      container: spec.containerID || undefined,
      pod: spec.pod === undefined ? undefined : podIdentity(value.metadata.namespace, spec.pod),
      addresses: (spec.ipNetworks ?? []).flatMap(text => Prefix.parse(text)?.ip.key ?? []),
    }
    this.#endpoints.set(name, endpoint)
    for (const address of endpoint.addresses) add(this.#byAddress, address, endpoint)
    for (const identity of identitiesOf(endpoint)) add(this.#byIdentity, identity, endpoint)
  }
}

function tunnelAddressesOf({ spec }: Node): string[] {
  const texts = [
    spec.wireguard?.interfaceIPv4Address,
    spec.wireguard?.interfaceIPv6Address,
    spec.bgp?.ipv4IPIPTunnelAddr,
    spec.ipv4VXLANTunnelAddr,
    spec.ipv6VXLANTunnelAddr,
  ]
  return texts.flatMap(text => Ip.parse(text ?? '')?.key ?? [])
}

function podIdentity(namespace: string | undefined, pod: string): string {
  return `pod ${namespace ?? ''}/${pod}`
}

function identitiesOf({ container, pod }: Endpoint): string[] {
  return [...(container === undefined ? [] : [`container ${container}`]), ...(pod === undefined ? [] : [pod])]
}

function add(map: Map<string, Set<Endpoint>>, key: string, endpoint: Endpoint): void {
  const known = map.get(key)
  if (known) known.add(endpoint)
  else map.set(key, new Set([endpoint]))
}

function remove(map: Map<string, Set<Endpoint>>, key: string, endpoint: Endpoint): void {
  const known = map.get(key)
  known?.delete(endpoint)
  if (known?.size === 0) map.delete(key)
}
