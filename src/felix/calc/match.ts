/**
 * Which items a selector names, kept up to date: items carry labels of their own and inherit more from parents.
 *
 * An item (an endpoint, a network set) sees its own labels first, then those of its parents in their order (a workload's
 * profiles: namespace and service account). Nothing is evaluated that cannot have changed: each selector is filed under
 * what its match needs most narrowly (`label == value`, else `has(label)`, else nothing), each item under what it has.
 * So a label that moves touches the selectors that ask for it, and a new selector the items that may answer. A parent that
 * changes touches of its children what differs: a namespace's label is one entry more or less for each of its pods.
 *
 * `matchStarted` and `matchStopped` are told once per change, and never for what stays as it was; the set of matches
 * depends on the items, parents and selectors that stand now, not on the order in which they came. Contract §2.5, §4.1.
 */

import type { Selector } from '../../model/index.ts'

export type ItemLabels = Readonly<Record<string, string>>

export interface MatchEvents {
  matchStarted(selector: string, item: string): void
  matchStopped(selector: string, item: string): void
}

interface Item {
  readonly own: ItemLabels
  readonly parents: readonly string[]
  /** Own and inherited labels together. */
  effective: Map<string, string>
  readonly matched: Set<string>
}

interface Parent {
  labels: ItemLabels
  readonly children: Set<string>
}

interface Entry {
  readonly selector: Selector
  /** Where it is filed; empty: it can never match. */
  readonly places: readonly string[]
  readonly matched: Set<string>
}

/** The place of selectors that need nothing in particular. */
const anywhere = ''
/** No label or value holds this character, so places cannot be mistaken for each other. */
const separator = '\u0000'
/** So many selectors that look at a label are asked one by one when it moves. */
const fewSelectors = 16
/** A selector that takes more values than this is filed under the label alone. */
const mostPlaces = 32

export class SelectorIndex {
  readonly #events: MatchEvents
  readonly #items = new Map<string, Item>()
  readonly #parents = new Map<string, Parent>()
  readonly #selectors = new Map<string, Entry>()
  readonly #itemsAt = new Map<string, Set<string>>()
  readonly #selectorsAt = new Map<string, Set<string>>()
  /** By label: the selectors that look at it. */
  readonly #lookers = new Map<string, Set<string>>()

  constructor(events: MatchEvents) {
    this.#events = events
  }

  /** An item with its labels; undefined: it is gone. */
  item(id: string, labels: ItemLabels | undefined, parents: readonly string[] = []): void {
    const before = this.#items.get(id)
    for (const parent of before?.parents ?? []) this.#parentOf(parent).children.delete(id)
    if (!labels) {
      if (!before) return
      this.#refile(id, before.effective, new Map())
      this.#items.delete(id)
      for (const selector of before.matched) this.#stop(selector, id, before)
      for (const parent of before.parents) this.#forgetParent(parent)
      return
    }
    const item: Item = {
      own: labels,
      parents,
      effective: before?.effective ?? new Map(),
      matched: before?.matched ?? new Set(),
    }
    this.#items.set(id, item)
    for (const parent of parents) this.#parentOf(parent).children.add(id)
    for (const parent of before?.parents ?? []) this.#forgetParent(parent)
    this.#relabel(id, item, before === undefined)
  }

  /** What every item with this parent inherits; undefined: nothing any more. */
  parent(id: string, labels: ItemLabels | undefined): void {
    const parent = this.#parentOf(id)
    const before = parent.labels
    parent.labels = labels ?? {}
    const moved = [...new Set([...Object.keys(before), ...Object.keys(parent.labels)])].filter(
      label => valueIn(before, label) !== valueIn(parent.labels, label),
    )
    for (const child of parent.children) this.#inherit(child, this.#items.get(child)!, moved)
    this.#forgetParent(id)
  }

  /** A selector under a name of the caller's; undefined: nobody asks any more. */
  selector(id: string, selector: Selector | undefined): void {
    const before = this.#selectors.get(id)
    if (before && selector && before.selector.text === selector.text) return
    for (const place of before?.places ?? []) remove(this.#selectorsAt, place, id)
    for (const label of before?.selector.labels ?? []) remove(this.#lookers, label, id)
    for (const label of selector?.labels ?? []) add(this.#lookers, label, id)
    const entry = selector && { selector, places: placesOf(selector), matched: before?.matched ?? new Set<string>() }
    if (entry) this.#selectors.set(id, entry)
    else this.#selectors.delete(id)
    for (const place of entry?.places ?? []) add(this.#selectorsAt, place, id)
    // What it named before may have to stop, what its new place holds may start.
    const candidates = new Set(before?.matched)
    for (const place of entry?.places ?? [])
      for (const item of place === anywhere ? this.#items.keys() : (this.#itemsAt.get(place) ?? []))
        candidates.add(item)
    for (const item of candidates) this.#decide(id, entry ?? before!, item, this.#items.get(item)!, entry !== undefined)
  }

  matches(selector: string): ReadonlySet<string> {
    return this.#selectors.get(selector)?.matched ?? new Set()
  }

  /** The selectors that name this item. */
  selectorsOf(item: string): ReadonlySet<string> {
    return this.#items.get(item)?.matched ?? new Set()
  }

  /** Own and inherited labels of an item. */
  labels(item: string): ReadonlyMap<string, string> | undefined {
    return this.#items.get(item)?.effective
  }

  #relabel(id: string, item: Item, isNew: boolean): void {
    const effective = this.#effective(item)
    if (!isNew && sameLabels(effective, item.effective)) return
    this.#refile(id, item.effective, effective)
    item.effective = effective
    this.#decideAll(id, item)
  }

  /** A parent's values of these labels moved; what an item has of its own, or from a parent before, stays. */
  #inherit(id: string, item: Item, labels: readonly string[]): void {
    const moved: string[] = []
    for (const label of labels) {
      const before = item.effective.get(label)
      const after = this.#valueOf(item, label)
      if (before === after) continue
      moved.push(label)
      if (before !== undefined) remove(this.#itemsAt, placeOf(label, before), id)
      if (after !== undefined) add(this.#itemsAt, placeOf(label, after), id)
      if (before === undefined) add(this.#itemsAt, label, id)
      if (after === undefined) remove(this.#itemsAt, label, id)
      if (after === undefined) item.effective.delete(label)
      else item.effective.set(label, after)
    }
    const lookers = moved.map(label => this.#lookers.get(label))
    if (lookers.some(some => some !== undefined && some.size > fewSelectors)) return this.#decideAll(id, item)
    for (const some of lookers)
      for (const one of some ?? []) this.#decide(one, this.#selectors.get(one)!, id, item, true)
  }

  #valueOf({ own, parents }: Item, label: string): string | undefined {
    let value = valueIn(own, label)
    for (const parent of parents) value ??= valueIn(this.#parents.get(parent)?.labels ?? {}, label)
    return value
  }

  #decideAll(id: string, item: Item): void {
    for (const one of item.matched) this.#decide(one, this.#selectors.get(one)!, id, item, true)
    this.#mayStart(anywhere, id, item)
    for (const place of placesIn(item.effective)) this.#mayStart(place, id, item)
  }

  #mayStart(place: string, id: string, item: Item): void {
    for (const one of this.#selectorsAt.get(place) ?? [])
      if (!item.matched.has(one)) this.#decide(one, this.#selectors.get(one)!, id, item, true)
  }

  #effective({ own, parents }: Item): Map<string, string> {
    const labels = new Map(Object.entries(own))
    for (const parent of parents)
      for (const [label, value] of Object.entries(this.#parents.get(parent)?.labels ?? {}))
        if (!labels.has(label)) labels.set(label, value)
    return labels
  }

  #refile(id: string, before: ReadonlyMap<string, string>, after: ReadonlyMap<string, string>): void {
    for (const place of placesIn(before, after)) remove(this.#itemsAt, place, id)
    for (const place of placesIn(after, before)) add(this.#itemsAt, place, id)
  }

  #decide(selector: string, entry: Entry, id: string, item: Item, isWanted: boolean): void {
    const matches = isWanted && entry.selector.matches(item.effective)
    if (matches === item.matched.has(selector)) return
    if (!matches) return this.#stop(selector, id, item)
    item.matched.add(selector)
    entry.matched.add(id)
    this.#events.matchStarted(selector, id)
  }

  #stop(selector: string, id: string, item: Item): void {
    item.matched.delete(selector)
    this.#selectors.get(selector)?.matched.delete(id)
    this.#events.matchStopped(selector, id)
  }

  #parentOf(id: string): Parent {
    const known = this.#parents.get(id)
    if (known) return known
    const made: Parent = { labels: {}, children: new Set() }
    this.#parents.set(id, made)
    return made
  }

  #forgetParent(id: string): void {
    const parent = this.#parents.get(id)
    if (parent && parent.children.size === 0 && Object.keys(parent.labels).length === 0) this.#parents.delete(id)
  }
}

/** Places that were found: many policies share a selector. */
const filedAt = new WeakMap<Selector, readonly string[]>()

/** Where to file a selector: the label that leaves the fewest values, else one that must be there, else anywhere. */
function placesOf(selector: Selector): readonly string[] {
  const known = filedAt.get(selector) ?? findPlaces(selector)
  filedAt.set(selector, known)
  return known
}

function findPlaces(selector: Selector): string[] {
  let best: readonly string[] | undefined
  let present: string | undefined
  // In the order of names, so that equal choices fall the same way everywhere.
  for (const [label, { values }] of [...selector.restrictions].sort(([a], [b]) => (a < b ? -1 : 1))) {
    present ??= label
    if (!values || values.size > mostPlaces || (best && values.size >= best.length)) continue
    best = [...values].map(value => placeOf(label, value))
  }
  return best ? [...best] : [present ?? anywhere]
}

/** Where an item is found: under each label, and under each label with its value. Without the places of `others`. */
function placesIn(labels: ReadonlyMap<string, string>, others?: ReadonlyMap<string, string>): string[] {
  const places: string[] = []
  labels.forEach((value, label) => {
    const other = others?.get(label)
    if (other === undefined) places.push(label)
    if (other !== value) places.push(placeOf(label, value))
  })
  return places
}

function placeOf(label: string, value: string): string {
  return `${label}${separator}${value}`
}

/** Own properties only: a label may well be called `constructor`. */
function valueIn(labels: ItemLabels, label: string): string | undefined {
  return Object.hasOwn(labels, label) ? labels[label] : undefined
}

function sameLabels(a: ReadonlyMap<string, string>, b: ReadonlyMap<string, string>): boolean {
  if (a.size !== b.size) return false
  for (const [label, value] of a) if (b.get(label) !== value) return false
  return true
}

function add(places: Map<string, Set<string>>, place: string, id: string): void {
  const there = places.get(place)
  if (there) there.add(id)
  else places.set(place, new Set([id]))
}

function remove(places: Map<string, Set<string>>, place: string, id: string): void {
  const there = places.get(place)
  there?.delete(id)
  if (there?.size === 0) places.delete(place)
}
