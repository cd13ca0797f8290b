/** The kinds' schemas are JSON schema: checked here once, so that no command has to when it starts. */

import { Ajv } from 'ajv'
import { expect, test } from 'vitest'
import { formRows, kindRows } from '../../src/model/index.ts'

const ajv = new Ajv({ allErrors: true, strictTypes: false, allowUnionTypes: true })
for (const keyword of ['scalar', 'anyCaseOf']) ajv.addKeyword({ keyword })

for (const { kind, spec, status } of [...kindRows, ...formRows])
  test(`${kind}: spec and status are schemas`, () => {
    for (const schema of [spec, ...(status ? [status] : [])]) {
      expect(ajv.validateSchema(schema), JSON.stringify(ajv.errors)).toBe(true)
      expect(() => ajv.compile(schema)).not.toThrow()
    }
  })
