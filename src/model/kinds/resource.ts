/**
 * The envelope of every Calico v3 resource, as it is stored and as YAML spells it.
 *
 * These types describe the JSON, field for field: text stays text here, and each room turns it into `Ip`, `Prefix` and
 * its own values where it takes a resource in. Objects read from the store hold more than the types name; whoever
 * changes one copies it (`{ ...resource, spec: { ...resource.spec, x } }`) and so keeps what it does not know.
 */

export interface ObjectMeta {
  readonly name: string
  readonly namespace?: string
  readonly uid?: string
  /** RFC 3339 seconds. */
  readonly creationTimestamp?: string | null
  /** Filled on read from the store's revision, blank in the store. */
  readonly resourceVersion?: string
  readonly labels?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, string>>
}

export interface Resource<Kind extends string = string, Spec = unknown, Status = unknown> {
  readonly kind: Kind
  readonly apiVersion: string
  readonly metadata: ObjectMeta
  readonly spec: Spec
  readonly status?: Status
}

export const apiVersion = 'projectcalico.org/v3'
/** Of kinds that Calico does not know. */
export const ownApiVersion = 'manx/v1'
