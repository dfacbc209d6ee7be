// Command berth is Berth: LoadBalancer Services for clusters without a cloud.
//
//	berth controller   gives addresses to Services
//	berth speaker      announces them from its node
//	berth apply        applies CRDs and configuration, for installers
//
// Begin with main.go. Then:
//
//	controller.go   flags of the controller, and its run while it leads
//	speaker.go      flags of the speaker, and its run
//	process.go      flags, clients, logs and HTTP of both
//	mode.go         how the controller drives Services; one mode is active at a time
//	lock.go         the Lease, and writes that end with it
//	recorder.go     events: the API server gets them at a bounded rate
//	backlog.go      events that wait to be written
//	apply.go        flags of apply
package main
