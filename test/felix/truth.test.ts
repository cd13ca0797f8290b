/**
 * The truth tables without real packets: felix over simulated kernels against the naive reader, for Kubernetes' recipes,
 * rare cases and some seeds. `npm run test:policy` asks real packets too, and more seeds.
 */

import { equal, ok } from 'node:assert/strict'
import { afterAll, describe, test } from 'vitest'
import { selects } from '../policy/selector.ts'
import { edgeCases } from '../policy/edges.ts'
import { recipes } from '../policy/recipes.ts'
import { report, seededCase, TruthTable, type Case } from '../policy/run.ts'

const seeds = [101, 102, 103, 104, 105]

describe('felix and the naive reader agree', () => {
  const table = new TruthTable()
  afterAll(() => table.stop())

  async function agree(one: Case): Promise<void> {
    const found = await table.check(one)
    ok(found.length === 0, report(one, found))
  }
  for (const one of [...recipes, ...edgeCases]) test(one.set.name, () => agree(one))
  for (const seed of seeds) test(`seed ${seed}`, () => agree(seededCase(seed)))

  test('and something was decided either way', () => {
    const { probes, allowed, fields } = table.tally
    ok(allowed > probes / 5 && allowed < (probes * 4) / 5, `${allowed} of ${probes} allowed`)
    for (const field of ['Allow', 'Deny', 'Pass', 'Kubernetes', 'end of tier', 'destination.ports', 'source.selector'])
      ok((fields.get(field) ?? 0) > 10, `${field} decided ${fields.get(field) ?? 0} times`)
  })
})

describe('the second reading of selectors', () => {
  const labels = { a: 'web-1', 'x.y/z': '', in: 'b' }
  const cases: readonly (readonly [string, boolean])[] = [
    ['', true],
    ['all()', true],
    ['!all( )', false],
    ['has(a) && has(x.y/z)', true],
    ["a == 'web-1'", true],
    ['a != "web-1" || in=="b"', true],
    ["none != 'x'", true],
    ["none == 'x'", false],
    ["none not in {'x'}", true],
    ["none in {'x',}", false],
    ["a notin {'web-1', 'x'}", false],
    ["a starts with 'web' && a ends  with '1' && a contains 'b-'", true],
    ["none contains ''", false],
    ['has(b) && has(c) || has(a)', true],
    ['!(has(a) || has(b))', false],
    ['!!has(a)', true],
  ]
  for (const [text, want] of cases) test(`\`${text}\``, () => equal(selects(text, labels), want))
})
