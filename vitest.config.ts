import { defineConfig } from 'vitest/config'

// Unit files share one process (isolate: false): they own no global state. Suites that enter network namespaces or
// start daemons run one file at a time in processes of their own.
const apart = { pool: 'forks' as const, isolate: true, fileParallelism: false }

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/{lib,model,bgp,ipam,felix,app}/**/*.test.ts'],
          pool: 'forks',
          isolate: false,
        },
      },
      {
        test: {
          name: 'contract',
          include: ['test/contract/**/*.test.ts'],
          ...apart,
          testTimeout: 30_000,
          hookTimeout: 60_000,
        },
      },
      { test: { name: 'fv', include: ['test/fv/**/*.test.ts'], ...apart, testTimeout: 120_000, hookTimeout: 120_000 } },
    ],
  },
})
