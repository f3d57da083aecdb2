// Package work is the workloads: over HTTP against routers (HTTPWorks), and straight on a shard's lane in this process (Lane).
//
// It owns who pays whom, how a request is made and what its answer counts as. It refuses to prepare what it works on
// (package stand has users and money) and to say how often it works (package load does).
//
// Over HTTP a transfer is done when its answer says COMPLETED. One that is answered PENDING is counted under that code, not
// as done, and its end is awaited after the load (HTTP.Settle). Every other answer is counted under its own code.
package work
