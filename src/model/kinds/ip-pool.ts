/** IPPool and IPReservation: where addresses come from (contract §2.2). */

import type { Resource } from './resource.ts'

export type EncapMode = 'Never' | 'Always' | 'CrossSubnet'

export interface IPPoolSpec {
  readonly cidr: string
  readonly blockSize?: number
  readonly ipipMode?: EncapMode
  readonly vxlanMode?: EncapMode
  readonly natOutgoing?: boolean
  readonly nodeSelector?: string
  readonly namespaceSelector?: string
  readonly disabled?: boolean
  readonly disableBGPExport?: boolean
  readonly allowedUses?: readonly ('Workload' | 'Tunnel' | 'LoadBalancer')[]
  readonly assignmentMode?: 'Automatic' | 'Manual'
}

export type IPPool = Resource<'IPPool', IPPoolSpec>

export interface IPReservationSpec {
  readonly reservedCIDRs?: readonly string[]
}

export type IPReservation = Resource<'IPReservation', IPReservationSpec>
