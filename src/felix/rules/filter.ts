/**
 * The static chains of the filter table and the hooks that lead into them.
 *
 *   FORWARD (hook first) -> cali-FORWARD: pod links to the dispatch; what both ends allowed is accepted here
 *   INPUT   (hook first) -> cali-INPUT: what pods send to the host itself
 *
 * Accepting at the end of cali-FORWARD, and not after the host's own rules, is what lets pods through a host firewall
 * that drops forwarded traffic (docker's policy, an appended REJECT): an accept ends the table. With
 * `iptablesFilterAllowAction: Return` the host's rules keep the last word. No accept of ours can undo a drop in another
 * table or back end; `foreign.ts` finds those.
 *
 * Places that later issues fill: host endpoints (`cali-from-hep-forward`, `cali-from-host-endpoint`, OUTPUT and the raw and
 * mangle tables), service loop prevention (`cali-cidr-block`), tunnel packets in INPUT. No chain of these is rendered
 * before it has a rule. Contract §4.3.
 */

import type { Family } from '../../lib/ip.ts'
import type { Settings } from '../calc/settings.ts'
import { dispatchRoots } from './endpoint.ts'
import { hex, type Chain, type Hook, type MarkBits, type Rule } from './names.ts'

export function filterChains(family: Family, settings: Settings, marks: MarkBits): Chain[] {
  return [
    { name: 'cali-FORWARD', rules: forwardRules(settings, marks), whenRefused: 'drop' },
    { name: 'cali-INPUT', rules: inputRules(settings), whenRefused: 'empty' },
    { name: 'cali-wl-to-host', rules: toHostRules(family, settings), whenRefused: 'drop' },
  ]
}

export function filterHooks(settings: Settings): Hook[] {
  return ['FORWARD', 'INPUT'].map(chain => ({
    chain,
    rule: { match: '', action: `-j cali-${chain}` },
    at: settings.hooksAt,
  }))
}

function forwardRules(settings: Settings, marks: MarkBits): Rule[] {
  const all = (marks.accept | marks.pass | marks.drop | marks.scratch0 | marks.scratch1) >>> 0
  const accept = hex(marks.accept)
  return [
    // A mark set by somebody else would pass as an answer of ours.
    { match: '', action: `-j MARK --set-xmark 0x0/${hex(all)}` },
    ...forEach(settings, prefix => ({ match: `-i ${prefix}+`, action: `-j ${dispatchRoots.from}` })),
    // From pod to pod on one host both ends decide: the second chain clears the mark of the first.
    ...forEach(settings, prefix => ({ match: `-o ${prefix}+`, action: `-j ${dispatchRoots.to}` })),
    {
      match: `-m mark --mark ${accept}/${accept}`,
      action: allowAction(settings),
      comment: 'Policy explicitly accepted packet.',
    },
  ]
}

function inputRules(settings: Settings): Rule[] {
  return forEach(settings, prefix => ({ match: `-i ${prefix}+`, action: '-g cali-wl-to-host' }))
}

/** Neighbour discovery and multicast listening: without them a pod has no gateway, and no policy can allow them. */
const pathIcmp6 = [130, 131, 132, 133, 135, 136]

function toHostRules(family: Family, settings: Settings): Rule[] {
  const icmp = pathIcmp6.map(type => ({
    match: `-p ipv6-icmp -m icmp6 --icmpv6-type ${type}`,
    action: '-j ACCEPT',
  }))
  const last = { drop: '-j DROP', return: '-j RETURN', accept: '-j ACCEPT' }[settings.endpointToHost]
  return [
    ...(family === 6 ? icmp : []),
    { match: '', action: `-j ${dispatchRoots.from}` },
    { match: '', action: last, comment: 'Configured DefaultEndpointToHostAction' },
  ]
}

function allowAction(settings: Settings): string {
  return settings.filterAllow === 'accept' ? '-j ACCEPT' : '-j RETURN'
}

function forEach(settings: Settings, rule: (prefix: string) => Rule): Rule[] {
  return settings.interfacePrefixes.map(rule)
}
