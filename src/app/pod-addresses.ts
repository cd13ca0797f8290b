/** Pods' addresses out of ipam: one of each wanted family, or the given ones, each committed together with the pod's record. */

import type { Ipam } from '../ipam/index.ts'
import type { Ip } from '../lib/ip.ts'
import type { AddressRequest, PodAddresses } from './pods.ts'

export function podAddresses(ipam: Ipam): PodAddresses {
  return {
    assign: async request => (request.given.length > 0 ? assignGiven(ipam, request) : assignAny(ipam, request)),
    release: async handle => (await ipam.releaseByHandle(handle)).found,
  }
}

/** The record goes with the last of them: it stands only when every address does. */
async function assignGiven(ipam: Ipam, request: AddressRequest): Promise<readonly Ip[]> {
  const { handle, attributes, given } = request
  for (const [i, ip] of given.entries()) {
    const last = i === given.length - 1
    const companions = last ? { companions: () => ({ writes: request.record(given) }) } : {}
    await ipam.assignGiven({ ip, handle, attributes, use: 'Workload', ...companions })
  }
  return given
}

async function assignAny(ipam: Ipam, request: AddressRequest): Promise<readonly Ip[]> {
  const { handle, attributes, pools4, pools6 } = request
  const { ips4, ips6 } = await ipam.assign({
    handle,
    attributes,
    use: 'Workload',
    num4: request.want4 ? 1 : 0,
    num6: request.want6 ? 1 : 0,
    ...(pools4.length > 0 && { pools4 }),
    ...(pools6.length > 0 && { pools6 }),
    companions: ips => ({ writes: request.record([...ips.ips4, ...ips.ips6]) }),
  })
  return [...ips4, ...ips6]
}
