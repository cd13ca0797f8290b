/**
 * The one lab that is up, as manxctl's settings of last resort (operator-experience.md 2): with a lab running and nothing
 * else configured, `manxctl get ippools` means the lab's store.
 *
 * An embedded store is a file and can be opened from here. An etcd of the lab answers only inside its namespaces: then
 * `prefix` is what manxctl must run itself under, once.
 */

import { isUserNamespace, findExistingPlace } from './privilege.ts'
import { inside, namespaceName } from './namespaces.ts'
import { knownLabs, LabFolder } from './state.ts'

export interface LabClient {
  readonly lab: string
  /** `DATASTORE_TYPE`, `MANX_STORE`, `ETCD_ENDPOINTS`. */
  readonly env: Readonly<Record<string, string>>
  /** Put before the command line to reach the store; empty: it can be reached from here. */
  readonly prefix: readonly string[]
}

/** Undefined when no lab is up, or several are, or this process already runs inside one. */
export function labClient(): LabClient | undefined {
  const labs = knownLabs()
  const record = labs.length === 1 ? new LabFolder(labs[0]!).record() : undefined
  if (!record) return undefined
  const lab = labs[0]!
  if (record.storeEnv['DATASTORE_TYPE'] === 'embedded') return { lab, env: record.storeEnv, prefix: [] }
  const place = findExistingPlace()
  const outer = place?.kind === 'inside' && !isUserNamespace() ? place.prefix : []
  return { lab, env: record.storeEnv, prefix: [...outer, ...inside(namespaceName(lab, 'fabric'), [])] }
}
