//go:build !race

package commitview_test

// raceDetector says that this build has the race detector.
const raceDetector = false
