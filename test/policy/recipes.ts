import type { Case } from './run.ts'
export const recipes: readonly Case[] = []
