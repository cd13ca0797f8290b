/**
 * Firewall rules beside our own back end's, read for warnings only (catalogue K10, K06).
 *
 * A host without nft has nothing to read here: what iptables itself holds is read through the Kernel port.
 */

import { hasTool, runTool } from './tools.ts'

/** `nft list ruleset` of this namespace; nothing where nft is not installed. */
export async function readOtherRules(): Promise<{ nft?: string }> {
  return (await hasTool('nft')) ? { nft: await runTool('nft', ['list', 'ruleset']) } : {}
}
