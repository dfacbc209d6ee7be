// Package stored has what a speaker keeps of Kubernetes' objects: no more than plans read, and in
// few bytes, since there are ten thousands of them on each of hundreds of nodes. An informer's
// transform makes them of the objects that the API server sends.
package stored
