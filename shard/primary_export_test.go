package shard

// FindPrimaryBy is FindPrimary with another way to look names up.
var FindPrimaryBy = findPrimary
