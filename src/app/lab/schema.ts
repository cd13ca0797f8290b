/**
 * The JSON schema of a lab file (operator-experience.md 9), as data: `topology.ts` validates with it, and it is what is
 * published for editors. It says what may be written; what the words mean together (an address inside its fabric, a
 * rack that exists, names that do not clash) is `topology.ts`'s.
 */

const name = '^[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$'

const nodeFields = {
  rack: { anyOf: [{ type: 'string' }, { type: 'array', items: { type: 'string' }, minItems: 1 }] },
  address: { type: 'string' },
  address6: { type: 'string' },
  labels: { type: 'object', additionalProperties: { type: 'string' } },
  as: { type: 'integer', minimum: 1, maximum: 4294967295 },
  routeReflectorClusterID: { type: 'string' },
  env: { type: 'object', additionalProperties: { type: ['string', 'number', 'boolean'] } },
  config: { type: 'object' },
  pods: { type: 'integer', minimum: 0, maximum: 1000 },
  version: { type: 'string' },
} as const

const rack = {
  anyOf: [
    { type: 'string' },
    {
      type: 'object',
      additionalProperties: false,
      properties: { cidr: { type: 'string' }, cidr6: { type: 'string' } },
      required: ['cidr'],
    },
  ],
} as const

/** `nodes: {count: 50, prefix: n}`. */
export const countedNodes = {
  type: 'object',
  additionalProperties: false,
  required: ['count', 'prefix'],
  properties: {
    ...nodeFields,
    count: { type: 'integer', minimum: 1, maximum: 1000 },
    prefix: { type: 'string', pattern: '^[a-z]([a-z0-9-]{0,9})$' },
  },
} as const

/** `nodes: {node-a: {}, w: {count: 8}}`. */
export const namedNodes = {
  type: 'object',
  minProperties: 1,
  propertyNames: { pattern: name },
  additionalProperties: {
    type: ['object', 'null'],
    additionalProperties: false,
    properties: { ...nodeFields, count: { type: 'integer', minimum: 1, maximum: 1000 } },
  },
} as const

export const labSchema = {
  $schema: 'http://json-schema.org/draft-07/schema#',
  title: 'Manx lab',
  type: 'object',
  additionalProperties: false,
  required: ['lab', 'nodes'],
  properties: {
    lab: { type: 'string', pattern: '^[a-z0-9-]{1,12}$' },
    store: {
      anyOf: [
        { type: 'string', pattern: '^(embedded|etcd(:[1-9])?)$' },
        {
          type: 'object',
          additionalProperties: false,
          required: ['endpoints'],
          properties: { endpoints: { type: 'array', items: { type: 'string' }, minItems: 1 } },
        },
      ],
    },
    fabric: {
      type: 'object',
      additionalProperties: false,
      properties: {
        kind: { enum: ['l2', 'spine'] },
        cidr: { type: 'string' },
        cidr6: { type: 'string' },
        mtu: { type: 'integer', minimum: 1280, maximum: 65535 },
        racks: { type: 'object', propertyNames: { pattern: name }, additionalProperties: rack, minProperties: 1 },
        bfd: { type: 'boolean' },
      },
    },
    nodes: { anyOf: [countedNodes, namedNodes] },
    routers: {
      type: 'object',
      propertyNames: { pattern: name },
      additionalProperties: {
        type: 'object',
        additionalProperties: false,
        required: ['kind', 'as'],
        properties: {
          kind: { enum: ['bird', 'frr', 'gobgp', 'manx'] },
          as: nodeFields.as,
          address: { type: 'string' },
          address6: { type: 'string' },
          rack: { type: 'string' },
          peers: { anyOf: [{ enum: ['all', 'none'] }, { type: 'array', items: { type: 'string' } }] },
        },
      },
    },
    apply: { type: 'array', items: { type: 'string' } },
  },
} as const
