/**
 * From what a policy's author writes to what is evaluated: effective selectors and effective labels (contract §2.5).
 *
 * Namespaces and service accounts are no items of their own: a workload inherits their labels from its profiles, under
 * the prefixes `pcns.` and `pcsa.`, and selectors over them are renamed the same way. So one evaluation over one set of
 * labels answers for pod, namespace and service account together. A workload cannot claim such labels for itself.
 */

import { parseSelector, Selector, type GlobalNetworkPolicySpec, type WorkloadEndpoint } from '../../model/index.ts'

export const namespaceLabel = 'projectcalico.org/namespace'
export const serviceAccountLabel = 'projectcalico.org/serviceaccount'
const orchestratorLabel = 'projectcalico.org/orchestrator'
const ofNamespace = 'pcns.'
const ofServiceAccount = 'pcsa.'

/** Which endpoints a policy is about; a string says what cannot be read. `namespace` is empty for global policies. */
export function policySelector(spec: GlobalNetworkPolicySpec, namespace: string): Selector | string {
  return every([
    selectorOf(spec.selector, 'selector'),
    namespace === '' ? namespaceSelector(spec.namespaceSelector) : inNamespace(namespace),
    serviceAccountSelector(spec.serviceAccountSelector),
  ])
}

/** A rule's or a policy's selector over namespaces; undefined: it restricts nothing. */
export function namespaceSelector(text: string | undefined): Selector | string | undefined {
  const selector = selectorOf(text, 'namespaceSelector')
  if (!(selector instanceof Selector)) return selector
  // `all()` is every namespace, not everything: host endpoints and global sets are in none.
  if (selector.root.op === 'all') return new Selector({ op: 'has', label: namespaceLabel })
  if (selector.root.op === 'global') return new Selector({ op: '!', of: { op: 'has', label: namespaceLabel } })
  return selector.renameLabels(label => ofNamespace + label)
}

export function serviceAccountSelector(text: string | undefined): Selector | string | undefined {
  const selector = selectorOf(text, 'serviceAccountSelector')
  return selector instanceof Selector ? selector.renameLabels(label => ofServiceAccount + label) : selector
}

export function inNamespace(namespace: string): Selector {
  const known = namespaces.get(namespace)
  if (known) return known
  if (namespaces.size >= mostNamespaces) namespaces.clear()
  const made = new Selector({ op: '==', label: namespaceLabel, value: namespace })
  namespaces.set(namespace, made)
  return made
}

/** Every policy of a namespace asks for it. */
const namespaces = new Map<string, Selector>()
const mostNamespaces = 4096

/** The pods of a service in its namespace; undefined: it has no selector. Network sets have labels too, and are no pods. */
export function serviceSelector(text: string | undefined, namespace: string): Selector | string | undefined {
  const own = selectorOf(text, 'selector')
  return own && every([own, inNamespace(namespace), new Selector({ op: 'has', label: orchestratorLabel })])
}

/** Matches what all of them match; the first that could not be read decides. */
export function every(parts: readonly (Selector | string | undefined)[]): Selector | string {
  const selectors: Selector[] = []
  for (const part of parts) {
    if (typeof part === 'string') return part
    if (part) selectors.push(part)
  }
  return Selector.every(selectors)
}

/** What a selector sees of a workload besides what its profiles give it. */
export function workloadLabels({ metadata, spec }: WorkloadEndpoint): Record<string, string> {
  const labels: Record<string, string> = {}
  if (metadata.namespace) labels[namespaceLabel] = metadata.namespace
  for (const [label, value] of Object.entries(metadata.labels ?? {}))
    if (!label.startsWith(ofNamespace) && !label.startsWith(ofServiceAccount)) labels[label] = value
  if (spec.serviceAccountName) labels[serviceAccountLabel] = spec.serviceAccountName
  return labels
}

/** A selector as it stands; undefined when there is none, a sentence when it cannot be read. */
export function selectorOf(text: string | undefined, field: string): Selector | string | undefined {
  if (text === undefined || text.trim() === '') return undefined
  const result = parseSelector(text)
  return result.ok ? result.selector : `${field} \`${text}\`: ${result.error.message}`
}
