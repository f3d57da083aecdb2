package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/local"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// The restore drill of docs/OPERATIONS.md, by the commands that stand there: pg_basebackup, an archive of the log, and
// nothing else. SALDO_RESTORE_SECONDS makes the load before the disaster longer.

// archiving is a cluster whose shards' logs are archived.
type archiving struct {
	*replicated // a cluster with some commands; no standby
	archives    []string
	owner       syscall.Stat_t // of the servers' files
}

// newArchiving starts a cluster. Each server archives its log by a command, unless it is to be streamed.
func newArchiving(t *testing.T, s size, streamed bool) *archiving {
	t.Helper()
	folder := pgtest.Dir(t)
	a := &archiving{}
	s.postgres = func(i int, o *local.PostgresOptions) {
		archive := filepath.Join(folder, "archive-s"+strconv.Itoa(i+1))
		if err := os.Mkdir(archive, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(archive, 0o777); err != nil { // whoever runs Postgres
			t.Fatal(err)
		}
		a.archives = append(a.archives, archive)
		if !streamed {
			maps.Copy(o.Settings, archiveTo(archive))
		}
	}
	a.replicated = &replicated{cluster: newCluster(t, s)}
	if err := syscall.Stat(a.servers[0].Data(), &a.owner); err != nil {
		t.Fatal(err)
	}
	return a
}

// archiveTo are the settings by which a server archives: a file appears there as a whole, or not at all.
func archiveTo(archive string) map[string]string {
	file := filepath.Join(archive, "%f")
	return map[string]string{
		"archive_mode":    "on",
		"archive_command": fmt.Sprintf("test ! -f %s && cp %%p %s.new && mv %s.new %s", file, file, file, file),
	}
}

// receive has the log of a shard streamed into its archive, and has commits wait for that from when it returns.
func (a *archiving) receive(t *testing.T, i int) *process {
	t.Helper()
	path := filepath.Join(pgtest.Binaries(t).Dir, "pg_receivewal")
	args := []string{"--no-password", "-D", a.archives[i], "-d", a.servers[i].DSN(), "-S", "archive"}
	if _, says, code, err := run(cleanEnv(), path, append(args, "--create-slot")...); err != nil || code != 0 {
		t.Fatalf("pg_receivewal exits with %d: %v\n%s", code, err, says)
	}
	p := newProcess(t, "pg_receivewal", cleanEnv(), path, append(args, "--synchronous")...)
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	a.exec(t, a.ownerDSN(i), `alter system set synchronous_standby_names = 'pg_receivewal'`)
	a.exec(t, a.ownerDSN(i), `select pg_reload_conf()`)
	until(t, "commits wait for the archive", long, func() bool {
		return sql[bool](t, a.cluster, i, `select exists (select from pg_stat_replication where sync_state = 'sync')`)
	})
	return p
}

// backup takes a base backup of a shard and returns the folder.
func (a *archiving) backup(t *testing.T, i int) string {
	t.Helper()
	folder := filepath.Join(pgtest.Dir(t), "backup")
	_, says, code, err := run(cleanEnv(), filepath.Join(pgtest.Binaries(t).Dir, "pg_basebackup"),
		"-D", folder, "-d", a.servers[i].DSN(), "--checkpoint=fast", "--no-sync")
	if err != nil || code != 0 {
		t.Fatalf("pg_basebackup exits with %d: %v\n%s", code, err, says)
	}
	return folder
}

// archived returns when all that was written until now is in the archive.
func (a *archiving) archived(t *testing.T, i int) {
	t.Helper()
	name := sql[string](t, a.cluster, i, `select pg_walfile_name(pg_switch_wal())`)
	until(t, name+" is archived", long, func() bool {
		_, err := os.Stat(filepath.Join(a.archives[i], name))
		return err == nil
	})
}

// destroy kills a shard's server and loses its disk.
func (a *archiving) destroy(t *testing.T, i int) {
	t.Helper()
	if err := a.servers[i].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(a.servers[i].Data()); err != nil {
		t.Fatal(err)
	}
}

// restore makes a server of a backup and the archive, at the address of the one that was destroyed. It returns when the
// server accepts writes.
func (a *archiving) restore(t *testing.T, i int, backup string) {
	t.Helper()
	a.give(t, a.archives[i])
	settings, file := archiveTo(a.archives[i]), filepath.Join(a.archives[i], "%f")
	settings["restore_command"] = fmt.Sprintf("cp %s %%p || cp %s.partial %%p", file, file)
	a.recover(t, i, backup, settings)
}

// recover is restore by other settings.
func (a *archiving) recover(t *testing.T, i int, backup string, settings map[string]string) {
	t.Helper()
	a.replace(t, i, a.unpack(t, i, backup, "recovery.signal"), settings)
	until(t, a.shard(i)+" has recovered", long, func() bool {
		return !value[bool](t, a.servers[i], `select pg_is_in_recovery()`)
	})
}

// unpack makes a server's folder of a backup, with more empty files in its data.
func (a *archiving) unpack(t *testing.T, i int, backup string, files ...string) (dir string) {
	t.Helper()
	dir = filepath.Join(pgtest.Dir(t), "restored")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	copyFolder(t, backup, filepath.Join(dir, "data"))
	for _, file := range files {
		if err := os.WriteFile(filepath.Join(dir, "data", file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte(a.servers[i].Password()), 0o600); err != nil {
		t.Fatal(err)
	}
	a.give(t, filepath.Join(dir, "data"))
	return dir
}

// replace starts the server in a folder in place of a shard's, at its address.
func (a *archiving) replace(t *testing.T, i int, dir string, settings map[string]string) {
	t.Helper()
	port := a.servers[i].Port()
	a.servers[i] = pgtest.Start(t, func(o *local.PostgresOptions) {
		o.Name, o.Dir, o.Port = a.shard(i)+"-restored", dir, port
		o.Settings = map[string]string{"fsync": "off", "full_page_writes": "off"}
		maps.Copy(o.Settings, settings)
	})
	if a.servers[i].Port() != port {
		t.Fatalf("somebody took port %d of %s", port, a.shard(i))
	}
}

// give makes all files of a folder the Postgres user's, if we may.
func (a *archiving) give(t *testing.T, folder string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(a.owner.Uid), int(a.owner.Gid))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// restoreLoad is how long a disaster is waited for under load.
func restoreLoad(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("SALDO_RESTORE_SECONDS")
	if text == "" {
		return 0
	}
	seconds, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("SALDO_RESTORE_SECONDS: %v", err)
	}
	return time.Duration(seconds) * time.Second
}

// A shard whose log is streamed to an archive for which commits wait loses its disk under load, and is restored: nothing
// that was acknowledged is missing.
func TestRestore(t *testing.T) {
	t.Parallel()
	r := newArchiving(t, size{}, true)
	a, b := r.faces(t)
	ann, alf, bob := r.user(0, "ann"), r.user(0, "alf"), r.user(1, "bob")
	for _, id := range []string{ann, alf, bob} {
		a.newUser(id, 1_000_000)
	}
	backup := r.backup(t, 0)
	receiver := r.receive(t, 0)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	var all told
	for i, pair := range [][2]string{{ann, alf}, {ann, bob}, {bob, alf}, {alf, ann}} {
		clients.Go(func() { all.pay(ctx, []face{a, b}[i%2], pair[0], pair[1], "load"+strconv.Itoa(i)) })
	}
	time.Sleep(restoreLoad(t))
	until(t, "the load runs", long, func() bool { return all.count() > 100 })

	r.destroy(t, 0)
	receiver.kill()
	begun := time.Now()
	r.restore(t, 0, backup)
	t.Logf("restored in %v", time.Since(begun).Round(time.Millisecond))
	if add := a.post("/users/"+ann+"/add", `{"amount":1,"transaction_id":"early"}`); add.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("before the adoption: %d %s", add.StatusCode, add.Text)
	}
	if says := r.adopt(t); !strings.Contains(says, "timeline 2 is adopted") || strings.Contains(says, "LOST") {
		t.Errorf("the adoption says\n%s", says)
	}
	before := all.count()
	until(t, "the load goes on", long, func() bool { return all.count() > before+100 })
	stop()
	clients.Wait()
	until(t, "every saga has ended", long, func() bool { return pending(t, r.cluster) == 0 })
	r.wantTold(t, &all)
	t.Logf("%d transfers acknowledged, %d certainly not recorded", len(all.acknowledged), len(all.nothing))
}

// violations are the ids that an audit complains of, each once, sorted.
func (a *archiving) violations(t *testing.T) []string {
	t.Helper()
	var ids []string
	for _, check := range a.audit(t).Checks {
		for _, v := range check.Violations {
			ids = append(ids, v.ID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// A shard loses its disk, and with it what its server had not archived yet. What that has torn is found and mended; what
// only this shard knew is gone, until clients repeat it.
func TestRestoreThatLoses(t *testing.T) {
	t.Parallel()
	r := newArchiving(t, size{}, false)
	a, b := r.faces(t)
	ann, carl, bob := r.user(0, "ann"), r.user(0, "carl"), r.user(1, "bob")
	for _, id := range []string{ann, carl, bob} {
		a.newUser(id, 1000)
	}
	backup := r.backup(t, 0)
	a.transfer(ann, bob, 1, "kept").want(201, "")
	r.archived(t, 0)
	// All that happens on s1 from here on will be lost.
	a.transfer(bob, ann, 30, "credit").want(201, "")
	a.transfer(ann, bob, 50, "start").want(201, "")
	a.transfer(carl, ann, 700, "inside").want(201, "")
	untilNoted(t, r.cluster, 0)
	r.destroy(t, 0)

	r.restore(t, 0, backup)
	if says := r.adopt(t); !strings.Contains(says, "LOST: the log was durable up to") {
		t.Errorf("the adoption says\n%s", says)
	}
	a, b = a.patiently(), b.patiently()
	b.wantBalance(ann, 999)
	b.wantBalance(carl, 1000)
	b.wantBalance(bob, 1001-30+50)
	torn := []string{"start lost   " + ann + "/start", "credit lost  " + bob + "/credit"}
	says := r.run(t, 1, "shard", "doctor")
	for _, tear := range torn {
		if !strings.Contains(says, tear) {
			t.Errorf("the doctor does not find %s:\n%s", tear, says)
		}
	}
	// The audit complains of these two, and of the sum between shards, which they make 20 too small.
	if got, want := r.violations(t), []string{"USD", ann + "/start credit", bob + "/credit"}; !slices.Equal(got, want) {
		t.Errorf("the audit complains of %q, want %q", got, want)
	}
	if says := r.run(t, 0, "shard", "doctor", "--redrive"); !strings.Contains(says, "2 transfers, 2 of them driven again") {
		t.Errorf("the doctor says\n%s", says)
	}
	// The books are whole again: all the money that came in is there, and what s1 alone knew is as if it had never been asked.
	b.wantBalance(ann, 999+30-50)
	b.wantBalance(carl, 1000)
	b.wantBalance(bob, 1001-30+50)
	until(t, "every saga has ended", long, func() bool { return pending(t, r.cluster) == 0 })
	r.wantClean(t)
	readWorld(t, r.cluster).check(t)

	// Clients who repeat what they were told is done have it done.
	a.transfer(carl, ann, 700, "inside").want(201, "").replayed(false)
	a.transfer(bob, ann, 30, "credit").want(201, "").replayed(true)
	a.transfer(ann, bob, 50, "start").want(201, "").replayed(true)
	b.wantBalance(ann, 999+30-50+700)
	r.wantClean(t)
	readWorld(t, r.cluster).check(t)
}

// A base backup that is started as it is goes on along the shard's timeline, and no guard can tell it from the shard. But it is
// said. With recovery.signal the same files begin a timeline of their own.
func TestSetBack(t *testing.T) {
	t.Parallel()
	r := newArchiving(t, size{}, false)
	a, _ := r.faces(t)
	ann, bob := r.user(0, "ann"), r.user(1, "bob")
	a.newUser(ann, 1000)
	a.newUser(bob, 1000)
	backup := r.backup(t, 0)
	a.transfer(bob, ann, 30, "credit").want(201, "")
	r.exec(t, r.ownerDSN(0), `select pg_switch_wal()`) // so what follows is far behind it
	a.transfer(ann, bob, 50, "start").want(201, "")
	untilNoted(t, r.cluster, 0)
	r.destroy(t, 0)

	r.replace(t, 0, r.unpack(t, 0, backup), nil)
	until(t, "a coordinator says so", long, func() bool {
		return slices.ContainsFunc(r.coordinators, func(p *process) bool {
			return strings.Contains(p.output(), "a shard's files are older than what it had")
		})
	})
	if says := r.run(t, 1, "shard", "doctor"); !strings.Contains(says, "bytes between are lost") {
		t.Errorf("the doctor says\n%s", says)
	}
	r.destroy(t, 0)
	r.recover(t, 0, backup, map[string]string{"restore_command": "false"})
	if says := r.adopt(t); !strings.Contains(says, "timeline 2 is adopted") || !strings.Contains(says, "bytes between are lost") {
		t.Errorf("the adoption says\n%s", says)
	}
	if says := r.run(t, 0, "shard", "doctor", "--redrive"); !strings.Contains(says, "2 transfers, 2 of them driven again") {
		t.Errorf("the doctor says\n%s", says)
	}
	until(t, "every saga has ended", long, func() bool { return pending(t, r.cluster) == 0 })
	r.wantClean(t)
}

// All shards and etcd are gone, and come back from backups of different moments: the registry's is older than a move of slots,
// or there is none; one shard's log lacks its end.
func TestRestoreAll(t *testing.T) {
	t.Parallel()
	for name, kept := range map[string]bool{"etcd from before a move": true, "etcd lost": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			restoreAll(t, kept)
		})
	}
}

func restoreAll(t *testing.T, registryKept bool) {
	r := newArchiving(t, size{shards: 3}, false)
	a, _ := r.faces(t)
	ann, mia, bob, cid := r.user(0, "ann"), r.user(0, "mia"), r.user(1, "bob"), r.user(2, "cid")
	for _, id := range []string{ann, mia, bob, cid} {
		a.newUser(id, 1000)
	}
	backups := []string{r.backup(t, 0)}
	a.transfer(ann, bob, 1, "first").want(201, "")
	snapshot := r.snapshotEtcd(t)
	backups = append(backups, r.backup(t, 1))
	slot := strconv.Itoa(int(placement.SlotOf(ledger.UserID(mia))))
	r.run(t, 0, "move", "start", "--from", "s1", "--to", "s3", "--slots", slot)
	until(t, "s3 has mia's slot, and s1 knows", long, func() bool {
		return sql[bool](t, r.cluster, 2, `select exists (select from saldo.slots where slot::text = $1 and state = 'owned')`, slot) &&
			sql[bool](t, r.cluster, 0, `select exists (select from saldo.slots where slot::text = $1 and state = 'moved')`, slot)
	})
	a = a.patiently()
	a.transfer(mia, bob, 20, "after-the-move").want(201, "")
	backups = append(backups, r.backup(t, 2))
	a.transfer(bob, mia, 7, "back").want(201, "")
	a.transfer(cid, mia, 100, "inside-s3").want(201, "")
	a.post("/users/"+mia+"/add", `{"amount":3,"transaction_id":"three"}`).want(202, "")
	r.archived(t, 1)
	// What s2 does from here on will be lost, and only that.
	a.transfer(ann, bob, 11, "credit").want(201, "")
	a.transfer(bob, cid, 13, "start").want(201, "")
	until(t, "every saga has ended", long, func() bool { return pending(t, r.cluster) == 0 })
	r.archived(t, 0)
	r.archived(t, 2)

	services := append(slices.Clone(r.routers), r.coordinators...)
	for _, p := range services {
		p.kill()
	}
	for i := range r.servers {
		r.destroy(t, i)
	}
	r.etcd.Stop()
	if err := os.RemoveAll(filepath.Join(r.etcd.Dir(), "data")); err != nil {
		t.Fatal(err)
	}
	rebuild := []string{"registry", "rebuild", "--yes"}
	if registryKept {
		copyFolder(t, snapshot, filepath.Join(r.etcd.Dir(), "data"))
	} else {
		for i := range r.servers {
			rebuild = append(rebuild, "--shard", r.shard(i)+"="+r.dsn(i))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	if err := r.etcd.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range r.servers {
		r.restore(t, i, backups[i])
	}
	if says := r.run(t, 0, rebuild...); registryKept && !strings.Contains(says, " 1 slots get another owner") {
		t.Errorf("the rebuilding says\n%s", says)
	}
	if says := r.run(t, 0, rebuild[:3]...); !strings.Contains(says, "nothing to do") {
		t.Errorf("again, the rebuilding says\n%s", says)
	}
	for i := range r.servers {
		if says := r.run(t, 0, "shard", "adopt", r.shard(i), "--owner-dsn", r.ownerDSN(i)); !strings.Contains(says, "timeline 2 is adopted") {
			t.Errorf("the adoption of %s says\n%s", r.shard(i), says)
		}
	}
	for _, p := range services {
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
	}
	a, b := r.faces(t)
	a, b = a.patiently(), b.patiently()
	b.wantBalance(mia, 1000-20+7+100+3)
	if says := r.run(t, 0, "shard", "doctor", "--redrive"); !strings.Contains(says, "2 transfers, 2 of them driven again") {
		t.Errorf("the doctor says\n%s", says)
	}
	until(t, "every saga has ended", long, func() bool { return pending(t, r.cluster) == 0 })
	a.wantBalance(ann, 1000-1-11)
	a.wantBalance(bob, 1000+1+20-7+11-13)
	a.wantBalance(cid, 1000-100+13)
	a.transfer(ann, bob, 11, "credit").want(201, "").replayed(true)
	a.transfer(mia, ann, 5, "goes-on").want(201, "")
	until(t, "every saga has ended", long, func() bool { return pending(t, r.cluster) == 0 })
	r.wantClean(t)
	readWorld(t, r.cluster).check(t)
}

// snapshotEtcd copies what etcd has on disk while it is stopped for a moment.
func (a *archiving) snapshotEtcd(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "etcd")
	a.etcd.Stop()
	copyFolder(t, filepath.Join(a.etcd.Dir(), "data"), folder)
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	if err := a.etcd.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return folder
}

func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	if output, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
}
