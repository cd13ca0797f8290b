/**
 * `policy show ENDPOINT`: what binds a pod or host endpoint, in the order in which it is asked (operator-experience.md 3).
 *
 * Counts are of the kernel's rules, for all endpoints of that node that share a policy; ends of tiers are the endpoint's
 * own. `--rules` adds each rule. The endpoint's node is asked; where its agent does not answer, all is from the store and
 * nothing is counted.
 */

import { hasCode } from '../../lib/errors.ts'
import { exitCodes, Failure } from '../report.ts'
import { policyOf, readCluster, type PolicyDocument, type PolicyRow } from '../trace.ts'
import { askView } from './agent.ts'
import { fittedTable, grouped, harmless, jsonText, yamlText } from './layout.ts'
import { withConnection, type Invocation } from './world.ts'

export async function showPolicy(call: Invocation): Promise<number> {
  const { args, flags, world } = call
  const document = await ask(call, args[0]!)
  if (flags.output === 'json') world.out(`${jsonText({ ...document, kind: 'EndpointPolicy' })}\n`)
  else if (flags.output === 'yaml') world.out(yamlText({ ...document, kind: 'EndpointPolicy' }))
  else
    world.out(
      policyText(document, { rules: flags.rules ?? false, columns: world.columns, headers: flags.headers ?? true }),
    )
  return exitCodes.done
}

async function ask(call: Invocation, endpoint: string): Promise<PolicyDocument> {
  const first = (await fromAgent(call, endpoint)) ?? (await fromStore(call, endpoint))
  if (first.from === 'agent' || first.node === undefined) return first
  const { at: _other, ...flags } = call.flags
  const theirs = await fromAgent({ ...call, flags: { ...flags, node: first.node } }, endpoint).catch(() => undefined)
  return theirs?.from === 'agent' ? theirs : first
}

async function fromAgent(call: Invocation, endpoint: string): Promise<PolicyDocument | undefined> {
  const { namespace } = call.flags
  try {
    const query = { endpoint, ...(namespace !== undefined && { namespace }) }
    return (await askView<object>(call, 'policy', query)) as unknown as PolicyDocument
  } catch (error) {
    if (hasCode(error, 'no-agent') || hasCode(error, 'timeout')) return undefined
    throw error
  }
}

function fromStore(call: Invocation, endpoint: string): Promise<PolicyDocument> {
  return withConnection(call, async ({ store }) => {
    const updates = await readCluster({ store, clock: call.world.clock })
    const answer = await policyOf(endpoint, call.flags.namespace, updates)
    if ('error' in answer)
      throw new Failure(
        [{ code: answer.missing ? 'D12' : 'U02', message: answer.error, hint: 'manxctl get wep -A' }],
        answer.missing ? exitCodes.failed : exitCodes.usage,
      )
    return answer
  })
}

export function policyText(
  document: PolicyDocument,
  {
    rules,
    columns,
    headers,
  }: { readonly rules: boolean; readonly columns: number | undefined; readonly headers: boolean },
): string {
  const { endpoint, addresses, node, link, labels, from, lacking } = document
  const said = Object.entries(labels).map(([label, value]) => `${label}=${value}`)
  const standing =
    from === 'model'
      ? 'from the records only, its agent does not answer'
      : lacking?.length
        ? `NOT as wanted: ${lacking.join('; ')}`
        : 'as wanted'
  const about = [
    endpoint,
    ...addresses,
    ...(node === undefined ? [] : [node]),
    ...(link === undefined ? [] : [link]),
  ].join(' ')
  const head = [about, ...(said.length > 0 ? [`labels ${said.join(',')}`] : []), standing].join('   ')
  const heads = ['DIR', 'TIER', 'ORDER', 'POLICY', 'RULES', 'ALLOWED', 'DENIED', 'BOUND BY']
  const shown = document.rows.filter(row => row.kind !== 'end' || row.tier !== undefined || row.denied !== 0)
  const table = fittedTable(
    heads,
    shown.flatMap(row => [rowCells(row), ...(rules ? row.rules.map(ruleCells) : [])]),
    { right: new Set(['ORDER', 'RULES', 'ALLOWED', 'DENIED']), headers, columns, cut: 'BOUND BY' },
  )
  return `${harmless(head)}\n${table.split('\n').map(harmless).join('\n')}`
}

function rowCells(row: PolicyRow): string[] {
  const {
    direction,
    tier = '-',
    kind,
    title,
    staged,
    stage,
    forward,
    rules,
    allowed,
    denied,
    order,
    boundBy = '-',
  } = row
  const notes = [
    ...(staged ? ['staged'] : []),
    ...(stage === undefined || stage === 'tracked' ? [] : [stage]),
    ...(forward ? ['forward'] : []),
  ]
  const name = notes.length > 0 ? `${title} (${notes.join(', ')})` : title
  const place = kind === 'end' && tier !== '-' ? 'end' : order === undefined ? '-' : String(order)
  return [
    direction,
    tier,
    place,
    name,
    kind === 'end' ? '-' : String(rules.length),
    count(allowed),
    count(denied),
    boundBy,
  ]
}

function ruleCells({ rule, text, packets }: PolicyRow['rules'][number]): string[] {
  const isDenial = text.startsWith('Deny')
  return ['', '', '', `  ${rule} ${text}`, '', isDenial ? '' : count(packets), isDenial ? count(packets) : '', '']
}

function count(packets: number | undefined): string {
  return packets === undefined ? '-' : grouped(packets)
}
