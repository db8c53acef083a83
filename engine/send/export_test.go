package send

// SmallSegments makes segments of n bytes until undo is called: then a short stream is many of them.
func SmallSegments(n int) (undo func()) {
	old := segmentSize
	segmentSize = n
	return func() { segmentSize = old }
}

// Segments is how many segments a send has.
const Segments = segments
