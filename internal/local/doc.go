// Package local runs the two servers that Saldo needs, Postgres and etcd, on
// this machine: for `saldo dev`, and for tests.
//
// It owns the life of a server: where its binaries are, its directory, its
// port, its password, the process (or, for etcd, the goroutines), its restart
// after a death and its end. It refuses to know what is stored inside: it opens
// no SQL connection and no etcd client.
//
// # One directory, one server
//
// A [Postgres] owns its whole Dir:
//
//	lock           flock: held while a process supervises this directory
//	data/          the Postgres data directory
//	password       the superuser's password, mode 0600
//	port           the port of the last good start, kept over restarts
//	postgres.conf  written anew before each start
//	postgres.log   the server's own log
//
// data/ appears by a rename, so a crash while it is made leaves nothing that
// looks like a database. The configuration stands outside data/ because data/
// belongs to the server's user and we may be root: root must not write where an
// unprivileged user could have planted a link.
//
// # What a crash leaves
//
// The supervisor may die at any point, by kill -9 too. On Linux the kernel then
// sends the server SIGINT, a fast shutdown. The next [Postgres.Start] does not
// rely on that: it holds the lock, so whatever server still runs on the
// directory is a leftover, and it is stopped first, its orphaned backends as
// well, since these hold shared memory that a new server must not share.
//
// The server runs in a process group of its own, so a Ctrl-C at the terminal
// reaches us alone and the parts are stopped in our order, not the terminal's.
//
// # Standbys
//
// A [Postgres] with a Primary follows that one by streaming replication, and may
// be promoted. Nobody here watches or decides: that is what tests are about.
//
// # Durability
//
// fsync, synchronous_commit and full_page_writes are on. Only the options whose
// comment says "for tests" weaken that.
package local
