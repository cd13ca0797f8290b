/** The door of the BGP room. */

export * from './types.ts'
export { Mesh, routerIdOf } from './mesh.ts'
export type { LocalFacts, MeshPlan, MeshProblem } from './mesh.ts'
export { Speaker } from './speaker.ts'
export type { PeerStateChange, SpeakerDeps, SpeakerOptions, SpeakerSnapshot } from './speaker.ts'
export type { Cause, CauseCode } from './session/cause.ts'
export type { ListenProblem } from './session/listening.ts'
export type { HistoryEntry, NotificationRecord } from './session/record.ts'
export type { MessageCounts, PeerSnapshot, StateWord } from './session/view.ts'
