// Package admission decides how much work may be under way at one place, by how long that takes.
//
// It owns one type, the Limiter. It refuses to know what the work is, and what its refusal means to whoever asked.
//
// # How much is let in
//
// What is let in should be done within a target time. By Little's law that is so while the work under way is at most the
// target times the rate at which work gets done. So the limiter measures that rate, and needs to know nothing about the
// place: a slow one is given less, one that stands still gets a handful, and several limiters in front of one place share
// it. The rate counts only time in which there was work, so a place of which little is asked is not taken for a slow one.
// Some work is let in whatever the rate (Config.Always): the rate of a place that groups its work, as commits do, is low as
// long as there is little to group.
//
// A place where even a call that is alone takes long can group its work well only if it has more of it. So the target is at
// least some times what such a call takes.
//
// # What becomes of the rest
//
// It waits for room, the oldest first, so a burst is done a little later. But if even the waiting room is full, more comes
// than gets done, and a queue that never empties only makes everyone late. Then, for some time, nobody waits: there is room
// for half as much, which is soon done, and whoever does not find any is refused at once. The time doubles when the waiting
// room is full again soon after.
//
// # Why not another way
//
// Limiters that find the right concurrency by latency alone (gradients against the fastest or the usual time) take the longer
// commits of a deeper queue for overload. One of them, on a simulated group commit that was offered ten times what it can
// do, let in 0.6 of what it can do, and needed many seconds to find that. Fixed numbers fit one machine.
package admission
