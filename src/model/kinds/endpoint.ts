/** WorkloadEndpoint: a pod's record and interface (contract §1.5, §2.2). */

import type { Resource } from './resource.ts'

export interface EndpointPort {
  readonly name?: string
  readonly protocol: string | number
  readonly port: number
  readonly hostPort?: number
  readonly hostIP?: string
}

export interface WorkloadEndpointSpec {
  readonly orchestrator?: string
  readonly workload?: string
  readonly node?: string
  readonly containerID?: string
  readonly pod?: string
  readonly endpoint?: string
  readonly serviceAccountName?: string
  /** Each a /32 or /128. */
  readonly ipNetworks?: readonly string[]
  readonly ipNATs?: readonly { readonly internalIP: string; readonly externalIP: string }[]
  readonly ipv4Gateway?: string
  readonly ipv6Gateway?: string
  readonly profiles?: readonly string[]
  readonly interfaceName?: string
  readonly mac?: string
  readonly ports?: readonly EndpointPort[]
  readonly allowSpoofedSourcePrefixes?: readonly string[]
}

export type WorkloadEndpoint = Resource<'WorkloadEndpoint', WorkloadEndpointSpec>
