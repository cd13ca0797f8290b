/**
 * `bgp explain PREFIX`: every path with the reason why it is used or not, what each peer is sent or why it is not, and the
 * kernel's route (operator-experience.md 3).
 *
 * Reasons come from the RIB as data: the step of the decision, the rule of a policy. Here they become sentences that name
 * what to change. An address stands for its /32 or /128.
 */

import { Ip, Prefix } from '../../lib/ip.ts'
import type { BlockFacts, ExplainView } from '../bgp-views.ts'
import { exitCodes, Failure } from '../report.ts'
import { askView, type Document } from './agent.ts'
import { fromText, kernelText, lineText } from './bgp-routes.ts'
import { age, counted, grouped, harmless, jsonText, yamlText, wrapped } from './layout.ts'
import type { Invocation } from './world.ts'

type View = Document<ExplainView>
type Path = View['paths'][number]
type Sent = View['peers'][number]

export async function explain(call: Invocation): Promise<number> {
  const { args, flags, world } = call
  const word = args[0]!
  if (!Prefix.parse(word) && !Ip.parse(word))
    throw new Failure(
      [{ code: 'U02', message: `\`${word}\` is not a prefix`, hint: 'as 10.48.1.64/26, 10.48.1.70 or fd00:48::/122' }],
      exitCodes.usage,
    )
  const view = await askView<ExplainView>(call, 'explain', { prefix: word })
  if (flags.output === 'json') world.out(`${jsonText({ ...withSentences(view), kind: 'Explanation' })}\n`)
  else if (flags.output === 'yaml') world.out(yamlText({ ...withSentences(view), kind: 'Explanation' }))
  else world.out(explainText(view))
  return view.paths.some(({ state }) => state === 'best') ? exitCodes.done : exitCodes.no
}

/** The document with the words of the table beside each path and peer. */
function withSentences(view: View): object {
  return {
    ...view,
    paths: view.paths.map(path => ({ ...path, sentence: `${labelOf(path)} ${pathText(path, view)}` })),
    peers: view.peers.map(peer => ({ ...peer, sentence: sentText(peer) })),
  }
}

export function explainText(view: View): string {
  const about = blockText(view.block)
  const lines = [about === '' ? view.prefix : `${view.prefix}   ${about}`]
  if (view.paths.length === 0) lines.push(noPathText(view))
  else {
    lines.push(`Paths (${view.paths.length})`)
    for (const path of view.paths) lines.push(wrapped(`  ${labelOf(path).padEnd(9)}${pathText(path, view)}`, 11))
  }
  if (view.paths.length > 0 && view.peers.length > 0) lines.push('Advertised', ...sentLines(view.peers))
  const kernel = kernelLine(view)
  if (kernel !== undefined) lines.push(wrapped(`Kernel     ${kernel}`, 11))
  return `${lines.map(harmlessLines).join('\n')}\n`
}

function harmlessLines(text: string): string {
  return text.split('\n').map(harmless).join('\n')
}

function blockText(block: BlockFacts | undefined): string {
  if (!block) return ''
  const pool = block.pool === undefined ? 'outside every pool' : `in pool ${block.pool}`
  if (block.owner === undefined) return `block ${pool}, unclaimed`
  const claims = { confirmed: 'claim confirmed', pending: 'claim pending', pendingDeletion: 'being given back' }
  const used = block.used === undefined ? [] : [`${grouped(block.used)} of ${grouped(block.size ?? 0)} addresses used`]
  const claim = block.claim === undefined ? 'no claim in the store' : claims[block.claim]
  return [`block of ${block.owner} ${pool}`, claim, ...used].join(', ')
}

function noPathText({ withdrawn, coveredBy, coveredVia, block }: View): string {
  const by = withdrawn?.peer === undefined ? '' : ` by ${withdrawn.peer}`
  const gone = withdrawn ? [`withdrawn ${age(withdrawn.agoSeconds * 1000)} ago${by}`] : []
  const unclaimed = block && block.owner === undefined ? ['block is unclaimed'] : []
  const via = coveredVia?.nextHop === undefined ? '' : ` via ${coveredVia.nextHop}`
  const cover = coveredBy === undefined ? ['nothing covers it'] : [`covered by ${coveredBy}${via}`]
  return `no path; ${[...gone, ...unclaimed, ...cover].join('; ')}`
}

// -------------------------------------------------------------------------------------------------------------- paths

function labelOf({ state, stale }: Path): string {
  if (state === 'refused') return 'refused'
  if (stale) return 'stale'
  return state === 'usable' ? 'lost' : 'used'
}

function pathText(path: Path, view: View): string {
  const { peer, source, attributes, state } = path
  const from = peer ? `from ${peer.name} ${peer.address} (${source === 'ebgp' ? 'eBGP' : 'iBGP'})` : fromText(path)
  const parts = [
    from,
    ...(state === 'refused' || attributes.nextHop === undefined ? [] : [`next hop ${attributes.nextHop}`]),
    ...(attributes.asPath === '' ? [] : [`AS path ${attributes.asPath}`]),
    ...(attributes.localPref === undefined ? [] : [`local pref ${attributes.localPref}`]),
    ...(attributes.med === undefined ? [] : [`MED ${attributes.med}`]),
    ...(path.ageSeconds === undefined ? [] : [age(path.ageSeconds * 1000)]),
    ...(state === 'equal' ? ['used too (ECMP)'] : []),
    ...(path.stale
      ? [
          path.staleSeconds === undefined
            ? 'stale'
            : `removed in ${age(path.staleSeconds * 1000)} unless announced again`,
        ]
      : []),
  ].join(', ')
  if (state === 'refused') return `${parts}: ${refusedText(path, view)}`
  if (state !== 'usable' || path.step === undefined) return parts
  return `${parts}: lost to path ${(path.lostTo ?? 0) + 1} at step ${path.step}: ${path.why}`
}

/** Our own guards by the names of their rules, as sentences. */
function refusedText({ rule, why, peer }: Path, { block }: View): string {
  const accept = `to accept: BGPFilter on BGPPeer ${peer?.name ?? 'NAME'}`
  const pool = block?.pool === undefined ? 'a pool' : `pool ${block.pool}`
  switch (rule) {
    case undefined:
      return why === 'import policy' ? 'no rule of its import policy accepts it' : (why ?? 'not known')
    case 'own pool':
      return `inside ${pool}, and the peer is not a node (guard own-pools; ${accept})`
    case 'own block':
      return 'inside a block of this node, which alone answers for it (guard own-blocks)'
    case 'default route from a node':
      return `no node is the way out (guard node-default; ${accept})`
    case 'martian':
      return 'never a destination behind a router (guard martians)'
    default:
      return ruleText(rule)
  }
}

function ruleText(rule: string): string {
  const filter = /^(.+) ((?:import|export)V[46]\[\d+\])$/.exec(rule)
  return filter ? `BGPFilter ${filter[1]} rejects it: ${filter[2]}` : `by rule ${rule}`
}

// --------------------------------------------------------------------------------------------------------- advertised

function sentLines(peers: readonly Sent[]): string[] {
  const width = Math.max(...peers.map(({ peer }) => `to ${peer.name} ${peer.address}`.length))
  return peers.map(one => {
    const to = `to ${one.peer.name} ${one.peer.address}`.padEnd(width)
    return wrapped(`  ${(one.advertised ? 'yes' : 'no').padEnd(9)}${to}   ${sentText(one)}`, 11)
  })
}

function sentText({ advertised, attributes, why, rule, instead, pathIds, self }: Sent): string {
  if (!advertised || !attributes) return notSentText(why, rule)
  const communities = [...attributes.communities, ...attributes.largeCommunities]
  return [
    ...(attributes.nextHop === undefined ? [] : [`next hop ${attributes.nextHop}${self ? ' (self)' : ''}`]),
    attributes.asPath === '' ? 'empty AS path' : `AS path ${attributes.asPath}`,
    communities.length > 0 ? `communities ${communities.join(' ')}` : 'no communities',
    ...(instead === undefined ? [] : [`the best path is not for it: ${instead}`]),
    ...(pathIds && pathIds.length > 1 ? [counted(pathIds.length, 'path')] : []),
  ].join(', ')
}

function notSentText(why: string | undefined, rule: string | undefined): string {
  if (rule === 'pool not exported') return 'its pool has disableBGPExport'
  if (rule !== undefined) return ruleText(rule)
  return why === 'export policy'
    ? 'no rule of the export policy accepts it: not ours, and in no pool'
    : (why ?? 'not known')
}

// ------------------------------------------------------------------------------------------------------------- kernel

function kernelLine({ prefix, kernel, paths }: View): string | undefined {
  if (!kernel) return undefined
  const { route, asWanted, shadowedBy } = kernel
  const own = paths[0]?.source === 'local'
  if (!route || shadowedBy) {
    const text = kernelText(kernel, own)
    return text === '-' || paths.length === 0
      ? `${prefix}: ${route ? lineText(route) : 'no route of ours'}`
      : `${prefix}: ${text}`
  }
  const line = `${route.kind === 'unicast' ? '' : `${route.kind} `}${prefix}${route.hops.length > 0 ? ` ${lineText(route)}` : ''}`
  return `${line} proto ${route.protocol} metric ${route.metric}, ${asWanted ? 'as wanted' : 'being corrected'}`
}
