// Package admission decides how much work may be under way at one place, by how long that takes.
//
// It owns one type, the Limiter. It refuses to know what the work is, and what its refusal means to whoever asked.
//
// # The rule
//
// What is let in should be done within a target time. By Little's law that is so while the work under way is at most the
// target times the rate at which work gets done. So the limiter measures that rate and needs to know nothing about the
// place: a slow one gets less work, one that stands still gets a handful, several limiters in front of one place share it.
// Work beyond waits a moment for room, and is then refused, early enough to be tried somewhere else.
//
// The rate counts only time in which there was work: a place where little is asked for is not taken for a slow one. And
// whatever the rate, some work is let in (Config.Always): the rate of a place that groups its work, as commits do, is low
// as long as there is little to group.
//
// # Who waits, and who is refused
//
// The oldest is let in first, so a burst is served in its order. But when more comes than gets done, each would be let in
// just before it gives up, and all would take the longest time possible. So while calls are being refused the newest is
// let in first: most are served at once, and who is not is refused either way.
//
// Limiters that look for the right concurrency by latency alone (gradients against the fastest or the usual time) take the
// longer commits of a deeper queue for overload, and find a new limit in minutes.
package admission
