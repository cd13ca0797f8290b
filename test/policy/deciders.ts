/** Who decided, in the words of the naive reader and in those of an explanation, brought to one form. */

import type { HostPart } from '../../src/felix/index.ts'

/** The naive reader's words as the explanation puts them: `np shop/db ingress 2`, `end of tier x`, `nobody`. */
export function decider(by: string): string {
  const text = by.replace(/^(in|e)gress of \S+: /, '')
  const kubernetes = /^Kubernetes NetworkPolicy ([^/]+)\/(.+), (\w+) rule \d+/.exec(text)
  if (kubernetes) return `NetworkPolicy/${kubernetes[1]}/knp.default.${kubernetes[2]} ${kubernetes[3]}`
  const admin = /^(Admin|BaselineAdmin|Cluster)NetworkPolicy (.+), (\w+) rule \d+$/.exec(text)
  if (admin) return `GlobalNetworkPolicy/${adminPrefix[admin[1]!]}${admin[2]} ${admin[3]}`
  const rule = /^(\w+) (.+), (\w+) rule (\d+): \{/.exec(text)
  if (rule) return `${rule[1]}/${rule[2]} ${rule[3]} rule ${rule[4]}`
  return text === 'no profile allows' ? 'profiles' : text
}

const adminPrefix: Readonly<Record<string, string>> = {
  Admin: 'kanp.adminnetworkpolicy.',
  BaselineAdmin: 'kbanp.baselineadminnetworkpolicy.',
  Cluster: 'kcnp.cluster.',
}

/** What the last station of a part names as its decider, in the same words. */
export function said(part: Pick<HostPart, 'stations'>): string {
  const last = part.stations.at(-1)
  if (!last) return 'nobody is asked'
  const { by, text, tier } = last.decider
  if (by === 'tier') return `end of tier ${tier}`
  return by === 'profiles' ? 'profiles' : text.replace(/: (Allow|Deny)$/, '')
}

/** Kubernetes' rules become one of ours per protocol and peer, so of them only the policy is compared. */
export function isDecider(found: string, wanted: string): boolean {
  const isKubernetes = /\/(knp\.default|kanp|kbanp|kcnp)\./.test(wanted)
  return isKubernetes ? found.startsWith(`${wanted} rule `) : found === wanted
}
