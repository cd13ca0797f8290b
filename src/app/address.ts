/**
 * Which address is this node's: Calico's autodetection methods (contract §5.6), with the reason for the choice.
 *
 *   first-found          the first global address of a link that is up and not in the list of foreign links below
 *   interface=RE,...     the first of a link whose name matches
 *   skip-interface=RE,.. as first-found, with these left out too
 *   cidr=CIDR,...        the first that lies in one of these
 *   can-reach=IP         the source address of the route to it
 *
 * Links are tried from the highest index down, as Calico does. Pure: links and routes come in as data. The length that
 * comes with the address is the interface's, since it decides what counts as the same subnet.
 */

import { Ip, Prefix, type Family } from '../lib/ip.ts'
import type { KernelRoute, Link, LinkAddress } from '../lib/ports.ts'

export type Detected =
  | { readonly ok: true; readonly address: LinkAddress; readonly link: string; readonly why: string }
  | { readonly ok: false; readonly why: string }

/** Links that belong to containers, tunnels and other networks, by the names their makers give them. */
const foreign =
  /^(docker.*|cbr.*|dummy.*|podman.*|virbr.*|lxcbr.*|veth.*|lo|br-.*|cali.*|tunl.*|flannel.*|kube-ipvs.*|cni.*|vxlan\.calico|vxlan-v6\.calico|wireguard\.cali|wg-v6\.cali|nodelocaldns.*)$/

export function detectAddress(
  family: Family,
  method: string,
  links: readonly Link[],
  routes: readonly KernelRoute[],
): Detected {
  const [name, argument = ''] = split(method)
  const up = [...links].filter(link => link.up).sort((a, b) => b.index - a.index)
  switch (name) {
    case 'first-found':
      return first(
        family,
        up.filter(link => !foreign.test(link.name)),
        method,
      )
    case 'interface': {
      const wanted = patterns(argument)
      if (!wanted) return { ok: false, why: `\`${argument}\` is not a regular expression` }
      return first(
        family,
        wanted.flatMap(re => up.filter(link => re.test(link.name))),
        method,
      )
    }
    case 'skip-interface': {
      const skipped = patterns(argument)
      if (!skipped) return { ok: false, why: `\`${argument}\` is not a regular expression` }
      return first(
        family,
        up.filter(link => !foreign.test(link.name) && !skipped.some(re => re.test(link.name))),
        method,
      )
    }
    case 'cidr': {
      const cidrs = argument.split(',').map(text => Prefix.parse(text.trim()))
      if (cidrs.includes(undefined)) return { ok: false, why: `\`${argument}\` is not a list of prefixes` }
      return first(family, up, method, ip => cidrs.some(cidr => cidr!.contains(ip)))
    }
    case 'can-reach': {
      const to = Ip.parse(argument)
      if (!to) return { ok: false, why: `can-reach takes an address, not \`${argument}\`` }
      return sourceTowards(to, family, links, routes)
    }
    default:
      return {
        ok: false,
        why: `\`${method}\` is no method: first-found, interface=, skip-interface=, cidr=, can-reach=`,
      }
  }
}

/** The source address of the best route to `to`. */
export function sourceTowards(
  to: Ip,
  family: Family,
  links: readonly Link[],
  routes: readonly KernelRoute[],
): Detected {
  if (to.family !== family) return { ok: false, why: `${to.key} is not IPv${family}` }
  const best = routes
    .filter(route => route.table === 254 && route.kind === 'unicast' && route.prefix.contains(to))
    .sort((a, b) => b.prefix.length - a.prefix.length || a.metric - b.metric)[0]
  const link = links.find(l => l.index === best?.nextHops[0]?.link)
  if (!best || !link) return { ok: false, why: `there is no route to ${to.key}` }
  const address = best.source
    ? link.addresses.find(a => a.ip.equals(best.source!))
    : link.addresses.find(a => a.ip.family === family && a.ip.isGlobalUnicast())
  if (!address)
    return { ok: false, why: `the route to ${to.key} leaves by ${link.name}, which has no IPv${family} address` }
  return { ok: true, address, link: link.name, why: `source of the route to ${to.key}` }
}

/** The length that the host gives to an address of its own; undefined when it has no such address. */
export function lengthOf(ip: Ip, links: readonly Link[]): { length: number; link: string } | undefined {
  for (const link of links) {
    const found = link.addresses.find(a => a.ip.equals(ip))
    if (found) return { length: found.length, link: link.name }
  }
  return undefined
}

function first(
  family: Family,
  links: readonly Link[],
  method: string,
  wanted: (ip: Ip) => boolean = () => true,
): Detected {
  for (const link of links) {
    const address = link.addresses.find(a => a.ip.family === family && a.ip.isGlobalUnicast() && wanted(a.ip))
    if (address) return { ok: true, address, link: link.name, why: method }
  }
  const names = links.map(link => link.name).sort()
  const looked = names.length > 0 ? `looked at ${names.join(', ')}` : 'no link qualifies'
  return { ok: false, why: `no IPv${family} address by ${method}: ${looked}` }
}

function split(method: string): [string, string?] {
  const at = method.indexOf('=')
  return at < 0 ? [method] : [method.slice(0, at), method.slice(at + 1)]
}

function patterns(list: string): RegExp[] | undefined {
  try {
    return list.split(',').map(text => new RegExp(text.trim()))
  } catch {
    return undefined
  }
}
