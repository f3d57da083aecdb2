// Package api is Saldo's HTTP face: routes, wire types, and what an error means as a status.
//
// It owns everything a client can see (paths, bodies, codes, headers, openapi.yaml) and it is the only package that
// knows gin. It refuses to know where a user's money lives and how it moves: that is behind the Ledger it declares. It
// keeps no state but how much is in progress, and starts no goroutine.
//
// # One way through
//
// Every request, also one that meets no route, passes face.serve: a server span, the checks that need no handler
// (query, Accept, an empty body where none belongs), the handler, and one reply. A handler returns a reply or an error
// and never writes; a panic is an error too. So the envelope, the trace id, the status and the log have one place each.
//
//	server.go    configuration, the route table, the way through
//	admission.go how many requests may be in progress
//	alarm.go     how long one may take
//	request.go   what a handler asks of a request: path, query, headers, body
//	decode.go    the strict JSON decoder, for every body
//	reply.go     the envelope, and JSON written by appending
//	errors.go    the table of codes, and refusals
//	user.go, transfer.go, batch.go, history.go, app.go, health.go, openapi.go   the handlers, by noun
//
// # What is strict, and why
//
// A body has to be exactly what it looks like: no field twice (also not by an escape), no unknown field, no other case,
// nothing after its end, and amounts that are written as integers. Otherwise two readers of one request could see two
// transfers. encoding/json, and gin's binding with it, accepts all of these; decode.go does not use it.
//
// # Refused, unknown, failed
//
// A refusal is an outcome: it comes as a record, is remembered, and is answered 422 (404 for an unknown payer). Only an
// *ledger.Error says what else happened. 503 says that certainly nothing was recorded. A reply that cannot say so (504,
// 500) carries the transaction id, so that the client can repeat the request and learn the outcome.
package api
