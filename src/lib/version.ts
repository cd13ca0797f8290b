/** The release, as `package.json` says it; a unit test keeps the two equal. */
export const version = '0.1.0'
