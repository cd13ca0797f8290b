/**
 * Counts denied packets by what denied them, from the counters of the kernel's own rules.
 *
 * The kernel counts; here is only remembered what each rule had counted at the last look, so that a counter that began
 * anew (its chain was written, the host was started) adds what it has and takes nothing away. What a chain counted between
 * the last look and being written anew is lost: this is a figure for dashboards, not for billing. The first look after the
 * start of an agent begins at what stands there, which another run has counted.
 *
 * Labels: `tier` and `policy` of a rule; `(end)` for the end of a tier; no tier for profiles. After 200 policies the rest
 * is `other` (operator-experience.md 7).
 */

import type { Family } from '../lib/ip.ts'
import type { Metrics } from '../lib/ports.ts'
import type { PolicyModel } from './explain.ts'
import { policyChainName, profileChainName } from './rules/policy.ts'

const mostPolicies = 200
const directions = ['ingress', 'egress'] as const

interface Denier {
  readonly tier: string
  readonly policy: string
  readonly dir: string
}

export class DeniedPackets {
  readonly #counter: ReturnType<Metrics['counter']>
  readonly #last = new Map<string, number>()
  readonly #named = new Set<string>()
  readonly #looked = new Set<string>()

  constructor(metrics: Metrics) {
    this.#counter = metrics.counter(
      'felix_policy_denied_packets_total',
      'Packets denied, by the policy or end of tier that denied them.',
      ['tier', 'policy', 'dir'],
    )
  }

  /** Takes a table of one family as `iptables-save -c` prints it. */
  take(family: Family, table: string, text: string, model: PolicyModel): void {
    const chains = chainsOf(model)
    const place = `${family} ${table}`
    const isFirst = !this.#looked.has(place)
    this.#looked.add(place)
    const seen = new Set<string>()
    for (const line of text.split('\n')) {
      // Most rules have counted nothing, and most of the others deny nothing.
      if (!line.startsWith('[') || line.startsWith('[0:') || !/ -j (DROP|REJECT)\b/.test(line)) continue
      const found = /^\[(\d+):\d+\] (-A (cali-\S+) .*)$/.exec(line)
      const denier = found && denierOf(found[2]!, found[3]!, chains)
      if (!denier) continue
      const packets = Number(found[1])
      const key = `${place} ${found[2]}`
      seen.add(key)
      const before = this.#last.get(key) ?? 0
      this.#last.set(key, packets)
      const more = isFirst ? 0 : packets >= before ? packets - before : packets
      if (more > 0) this.#counter.add(more, { ...this.#label(denier) })
    }
    for (const key of this.#last.keys()) if (key.startsWith(`${place} `) && !seen.has(key)) this.#last.delete(key)
  }

  #label({ tier, policy, dir }: Denier): Denier {
    const name = `${tier} ${policy}`
    if (!this.#named.has(name) && this.#named.size >= mostPolicies) return { tier: '', policy: 'other', dir }
    this.#named.add(name)
    return { tier, policy, dir }
  }
}

/** Whose rules each shared chain holds. */
function chainsOf({ policies, profiles }: PolicyModel): Map<string, Denier> {
  const chains = new Map<string, Denier>()
  for (const dir of directions) {
    for (const { key, tier } of policies.values()) chains.set(policyChainName(dir, key), { tier, policy: key, dir })
    for (const name of profiles.keys())
      chains.set(profileChainName(dir, name), { tier: '', policy: `profile ${name}`, dir })
  }
  return chains
}

/** Of an endpoint's own chain the direction is in its name: what it is sent is a pod's ingress, and what a host sends its egress. */
function denierOf(line: string, chain: string, chains: ReadonlyMap<string, Denier>): Denier | undefined {
  const own = chains.get(chain)
  if (own) return own
  const dir = /^cali-(tw|fh|fhfw)-/.test(chain) ? 'ingress' : /^cali-(fw|th|thfw)-/.test(chain) ? 'egress' : undefined
  if (dir === undefined) return undefined
  const tier = /"End of tier (\S+)\. Drop/.exec(line)?.[1]
  if (tier !== undefined) return { tier, policy: '(end)', dir }
  return line.includes('"Drop if no profiles matched"') ? { tier: '', policy: '(end)', dir } : undefined
}
