/** The door of the felix room. */

export { Felix } from './felix.ts'
export type { EndpointFailure, FelixDeps, FelixOptions, FelixSnapshot, ReadyOptions } from './felix.ts'
export type { LearnedRoute } from './calc/routes.ts'
export type { OtherRules } from './dataplane.ts'
export { foreignFirewalls } from './rules/foreign.ts'
export type { Finding, ForeignInput } from './rules/foreign.ts'
export type { RouteLine, RouteReport } from './sync/routes.ts'
export { routeProtocol, setName, chainPrefix } from './rules/names.ts'
