/** The door of the ipam room. */

export { Ipam, settingsOf } from './ipam.ts'
export type { AssignResult, IpamDeps, IpamSettings } from './ipam.ts'
export { builtInBlockLimit } from './assign.ts'
export type { AssignGivenRequest, AssignRequest, Companions, Given } from './assign.ts'
export type { ReleaseItem, Released } from './release.ts'
export type { IpamFailure, PoolReasons } from './failure.ts'
export { Block, blockFaults } from './block.ts'
export type { Allocation } from './block.ts'
export type { AddressUse } from './pool.ts'
export type { AddressInfo, BlockUsage, BorrowedAddress, Fill, PoolUsage, Usage } from './usage.ts'
export { Audit } from './gc.ts'
export type { AuditOptions, AuditReport, Dated, Finding, Truth } from './gc.ts'
