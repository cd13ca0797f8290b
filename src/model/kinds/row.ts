/**
 * What is known about a kind, as data: one row each, so that adding a kind is adding a row.
 *
 * `schema` describes `spec` in JSON Schema for ajv; unknown fields are found because every object says
 * `additionalProperties: false`. `rules` says what a schema cannot: fields that exclude or need each other. `onUpdate`
 * compares with what is stored. All three speak in findings with exact paths, never in thrown errors, so that a caller can
 * point at the line and column. `defaults` fills what Calico fills before it stores, and restores canonical spellings.
 */

import type { Resource } from './resource.ts'

export type Path = readonly (string | number)[]

/**
 * One thing wrong with a resource. `message` is the first line of an error: the thing first, one sentence, values in
 * backticks. `path` starts at the resource itself: ['spec', 'cidr'].
 */
export interface Finding {
  readonly path: Path
  readonly code:
    | 'unknown-kind'
    | 'bad-api-version'
    | 'unknown-field'
    | 'bad-value'
    | 'missing'
    | 'conflict'
    | 'immutable'
    | 'selector'
    | 'name'
    | 'namespace'
  /** Code of the catalogue (operator-experience 4): D02, D04, ... */
  readonly error: string
  readonly message: string
  /** All values that would do, when they are few. */
  readonly allowed?: readonly string[]
  /** The value or field name that was probably meant; never more than one edit to paste. */
  readonly suggestion?: string
  /** Why, if the message cannot say it; Calico's own phrase where scripts look for it. */
  readonly why?: string
  /** Other places that take part: the second of two exclusive fields. */
  readonly also?: readonly Path[]
  /** Part of the value's text that is meant, in characters: a caret inside a selector. */
  readonly within?: { readonly at: number; readonly length: number }
}

/** JSON Schema, as far as the rows use it. */
export type Schema = Readonly<Record<string, unknown>>

/** A name in a resource that another resource must have. */
export interface Reference {
  readonly path: Path
  readonly kind: string
  readonly name: string
}

export interface KindRow<R extends Resource = Resource> {
  readonly kind: string
  readonly plural: string
  /** Short names the CLI takes beside kind and plural, lower case. */
  readonly aliases: readonly string[]
  readonly namespaced: boolean
  /** Default: Calico's. A kind of ours is stored outside of Calico's tree. */
  readonly apiVersion?: string
  /** Its fields stand beside `metadata`, not in `spec`: a form of Kubernetes' that is checked, never stored. */
  readonly isFlat?: boolean
  /** A policy of a tier: stored with the tier's label and the user's name in an annotation (contract §1.6). */
  readonly tiered?: boolean
  /** Shown by the CLI, never written by it. */
  readonly readOnly?: boolean
  /** Only these names, when the kind is a set of fixed records. */
  readonly names?: { readonly pattern: RegExp; readonly wanted: string }
  /** Each field of `spec` stands for itself: of a stored resource a bad one is left out and the others are used. */
  readonly fieldwise?: boolean
  readonly spec: Schema
  readonly status?: Schema
  defaults?(resource: R): R
  rules?(resource: R, report: Report): void
  onUpdate?(stored: R, wanted: R, report: Report): void
  references?(resource: R): Reference[]
}

/** Where rules put what they find; `name` is the resource as messages call it: ``IPPool `a` ``. */
export interface Report {
  readonly name: string
  add(finding: Finding): void
}
