package commitview

import "context"

// LateClone and LateTicket return contexts in which Open makes views with a mistake: clone-root copies the root, and
// epoch registers, after commitRootMu was let go.
func LateClone(ctx context.Context) context.Context {
	return context.WithValue(ctx, mutantKey{}, lateClone)
}

// LateTicket: see LateClone.
func LateTicket(ctx context.Context) context.Context {
	return context.WithValue(ctx, mutantKey{}, lateTicket)
}
