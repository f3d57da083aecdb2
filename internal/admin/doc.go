// Package admin is the face that operators see: an HTTP API about the cluster as a whole, under /admin/v1 of a coordinator's
// own listener. The terminal uses it (saldo top, saga, user, transfer), and so may a console in a browser.
//
// It owns the routes, their JSON, openapi.yaml, who may ask, and the stream of changes. It refuses to know etcd and
// Postgres: what it reads is behind the interfaces that it declares (Registry, Shard, Sagas, Auditor). It decides nothing
// about money: the only things that it changes are to have a move wait, go on or be taken back, and to have a saga's next
// step tried at once, which several may do.
//
//	admin.go     configuration, the interfaces, the table of routes, the way through
//	guard.go     who may ask
//	reply.go     JSON, errors, the codes
//	cluster.go, shards.go, slots.go, moves.go, sagas.go, users.go, transfers.go, audit.go   the resources, by noun
//	similar.go   ids like one that is not there
//	figures.go, scrape.go   rates and latencies: a look at servers and routers once a second, while somebody asks
//	events.go    the stream of changes: a journal that every listener reads at their own pace
//	client.go    the other side, for programs
//
// # Who may ask
//
// Whoever has the operator's token, as "Authorization: Bearer". Where none is configured, whoever is on the same machine:
// then the listener must be on loopback, and everywhere else every request is refused.
//
// A browser on that machine runs strangers' scripts. They are kept out by three things, of which each is enough for some of
// them: the Host of a request without a token must be localhost or an IP address, so no name that was pointed at loopback
// leads here; a request that a browser marks as coming from another site is refused; and what changes something has to be of
// JSON's content type, which no form can send and no script may, without being asked for by a request that is not answered.
//
// # What is shown
//
// Names, amounts and balances: operators need them. Addresses of shards come from the registry, which has no secrets. Errors
// say what a server has said, never how to log in there.
//
// # Alone
//
// A shard, a router or etcd that does not answer is told as a part of the answer, not as its failure: an operator asks most
// when something is down. Each question to the outside has a deadline.
package admin
