package local

// EventKind says what happened to a server.
type EventKind string

const (
	Initializing EventKind = "initializing" // its data directory is being made
	Starting     EventKind = "starting"     // its process is about to start, or to start again
	Ready        EventKind = "ready"        // it accepts connections on Port
	Died         EventKind = "died"         // it ended without having been asked to; it will be started again
	Stopped      EventKind = "stopped"      // it ended because it was asked to
)

// Event is one change in the life of a server.
type Event struct {
	Kind EventKind
	Port int   // of Ready: may differ from the port before, if that was taken meanwhile
	PID  int   // of Ready and Died
	Err  error // of Died: how it ended, or why it could not be started again
}
