/**
 * The static chains of the raw and mangle tables: what is decided before filter, or beside it.
 *
 *   raw PREROUTING     marks cleared; from pods only what comes the way that answers would go (RPF)
 *                      from elsewhere: untracked policies of host endpoints
 *   raw OUTPUT         the same for what the host sends
 *   mangle PREROUTING  policies of host endpoints that come before DNAT
 *   mangle POSTROUTING egress policies for what left the host under another destination than it had in OUTPUT
 *
 * Without host endpoints only the check of pods' source addresses is there. A pod that may use other addresses (`Any` in
 * `workloadSourceSpoofing`, and the ranges in its record) is let past it. A kernel without `rpfilter` leaves pods closed.
 * Contract §4.3.
 */

import type { Family } from '../../lib/ip.ts'
import type { LocalEndpoint } from '../calc/graph.ts'
import type { Settings } from '../calc/settings.ts'
import { hostRoots } from './host.ts'
import { hex, type Chain, type Hook, type MarkBits, type Rule } from './names.ts'
import { allowRules } from './tiers.ts'

export const pathCheck = 'cali-rpf'

export function rawChains(settings: Settings, marks: MarkBits, hasHosts: boolean): Chain[] {
  const fromPod = `-m mark --mark ${hex(marks.scratch0)}/${hex(marks.scratch0)}`
  const accepted = `-m mark --mark ${hex(marks.accept)}/${hex(marks.accept)}`
  const clear: Rule = { match: '', action: `-j MARK --set-xmark 0x0/${hex(allMarks(marks))}` }
  const prerouting: Rule[] = [
    clear,
    ...settings.interfacePrefixes.map(prefix => ({
      match: `-i ${prefix}+`,
      action: `-j MARK --set-xmark ${hex(marks.scratch0)}/${hex(marks.scratch0)}`,
    })),
    { match: fromPod, action: `-j ${pathCheck}` },
  ]
  if (!hasHosts) return [{ name: 'cali-PREROUTING', rules: prerouting, whenRefused: 'empty' }]
  return [
    {
      name: 'cali-PREROUTING',
      rules: [
        ...prerouting,
        { match: `-m mark --mark 0x0/${hex(marks.scratch0)}`, action: `-j ${hostRoots.from}` },
        { match: accepted, action: '-j ACCEPT' },
      ],
      whenRefused: 'empty',
    },
    {
      name: 'cali-OUTPUT',
      rules: [clear, { match: '', action: `-j ${hostRoots.to}` }, { match: accepted, action: '-j ACCEPT' }],
      whenRefused: 'empty',
    },
  ]
}

/** The check of a pod's source address, and who is let past it. */
export function pathChains(family: Family, endpoints: Iterable<LocalEndpoint>): Chain[] {
  const past = [...endpoints].flatMap(({ link, mayUse = [] }) =>
    mayUse
      .filter(net => net.family === family)
      .map(net => ({ match: `${net.length > 0 ? `-s ${net.key} ` : ''}-i ${link}`, action: '-j ACCEPT' })),
  )
  const check: Rule = { match: '-m rpfilter --validmark --invert', action: '-j DROP' }
  const skip: Chain = {
    name: 'cali-rpf-skip',
    rules: past.sort((a, b) => (a.match < b.match ? -1 : 1)),
    whenRefused: 'empty',
  }
  if (past.length === 0) return [{ name: pathCheck, rules: [check], whenRefused: 'drop' }]
  return [skip, { name: pathCheck, rules: [{ match: '', action: `-j ${skip.name}` }, check], whenRefused: 'drop' }]
}

export function mangleChains(settings: Settings, marks: MarkBits): Chain[] {
  const accepted = `-m mark --mark ${hex(marks.accept)}/${hex(marks.accept)}`
  const allow = (match: string): Rule[] => allowRules(settings, marks, 'mangle', match)
  return [
    {
      name: 'cali-PREROUTING',
      rules: [
        // Not marked: what filter says to a connection is filter's business.
        { match: '-m conntrack --ctstate RELATED,ESTABLISHED', action: allow('').at(-1)!.action },
        ...allow(accepted),
        { match: '', action: `-j ${hostRoots.from}` },
        ...allow(accepted),
      ],
      whenRefused: 'empty',
    },
    {
      name: 'cali-POSTROUTING',
      rules: [
        { match: accepted, action: '-j RETURN' },
        { match: '', action: `-j MARK --set-xmark 0x0/${hex(allMarks(marks))}` },
        { match: '-m conntrack --ctstate DNAT', action: `-j ${hostRoots.to}` },
        { match: accepted, action: '-j RETURN' },
      ],
      whenRefused: 'empty',
    },
  ]
}

export function rawHooks(settings: Settings, hasHosts: boolean): Hook[] {
  return hooks(hasHosts ? ['PREROUTING', 'OUTPUT'] : ['PREROUTING'], settings)
}

export function mangleHooks(settings: Settings): Hook[] {
  return hooks(['PREROUTING', 'POSTROUTING'], settings)
}

function hooks(chains: readonly string[], settings: Settings): Hook[] {
  return chains.map(chain => ({ chain, rule: { match: '', action: `-j cali-${chain}` }, at: settings.hooksAt }))
}

export function allMarks(marks: MarkBits): number {
  return (marks.accept | marks.pass | marks.drop | marks.scratch0 | marks.scratch1) >>> 0
}
